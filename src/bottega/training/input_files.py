"""The files a run depends on, and the check that none has changed before a resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottega.data import sources
from bottega.errors import RunError
from bottega.models.source import adapter_folder, locate
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.tokenization import builtin_templates

# What decides how a model and its tokenizer compute; other files of their folders may change freely.
MODEL_FILES = ("config.json", "adapter_config.json", "tokenizer*.json", "chat_template.jinja", "*.safetensors")


def list_input_files(recipe: Recipe) -> list[Path]:
    """Every file whose change would make a resume another run: data, weights, templates and the user's own code."""
    objective = recipe.objective
    names = (recipe.model.base, recipe.model.reference, *objective.model_names)
    models = [locate(name) for name in names if name]
    folders = [str(folder) for model in models for folder in (model.base, model.adapter) if folder]
    if recipe.adapter and recipe.adapter.start:
        folders.append(str(adapter_folder(recipe.adapter.start)))
    if recipe.model.tokenizer:
        folders.append(recipe.model.tokenizer)
    model_files = [path for folder in folders for name in MODEL_FILES for path in sorted(Path(folder).glob(name))]
    data_sources = (*recipe.train_sources, *recipe.validation_sources, *recipe.replay_sources)
    data_files = [path for source in data_sources for path in sources.source_files(source)]
    return [
        *data_files,
        *model_files,
        *builtin_templates.template_files(recipe.data.template),
        *objective.code_files,
    ]


def check_unchanged(recipe: Recipe, place: Mapping[str, Any] | None) -> None:
    """Raise a RunError if a file differs from its checksum in `place.json`; a run that has not begun has none."""
    if not place:
        return
    for path in list_input_files(recipe):
        # A missing file is reported by whatever reads it, with a better message.
        if path.exists() and place["files"].get(str(path)) != checksum(path):
            raise RunError(
                "this file has changed since the run began",
                where=str(path),
                fix="put the old file back, or start a new run with the new one",
            )
