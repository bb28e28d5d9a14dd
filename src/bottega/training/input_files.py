"""The files a run depends on: which they are, and whether they are what they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottega.data import sources
from bottega.errors import RunError
from bottega.models.source import adapter_folder, locate
from bottega.objectives import OnPolicy
from bottega.objectives.rewards.model import ModelReward
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.tokenization import builtin_templates


def files_of(recipe: Recipe) -> list[Path]:
    """Every file whose change would make a resume another run: rows, base weights, a continued adapter, own code."""
    rewards = recipe.objective.rewards if isinstance(recipe.objective, OnPolicy) else []
    judges = [one.model for one in rewards if isinstance(one, ModelReward)]
    named = [locate(name) for name in (recipe.model.base, recipe.model.reference, *judges) if name]
    folders = [str(folder) for one in named for folder in (one.base, one.adapter) if folder]
    folders += [str(adapter_folder(recipe.adapter.start))] if recipe.adapter and recipe.adapter.start else []
    folders += [recipe.model.tokenizer] if recipe.model.tokenizer else []
    names = ("config.json", "adapter_config.json", "tokenizer*.json", "chat_template.jinja", "*.safetensors")
    weights = [path for folder in folders for name in names for path in sorted(Path(folder).glob(name))]
    rows = [
        path
        for source in (*recipe.train_sources, *recipe.validation_sources, *recipe.replay_sources)
        for path in sources.source_files(source)
    ]
    own = builtin_templates.template_files(recipe.data.template)
    own += [Path(file) for one in (recipe.objective, *rewards) if (file := getattr(one, "file", None))]
    return [*rows, *weights, *own]


def check_unchanged(recipe: Recipe, place: Mapping[str, Any] | None) -> None:
    """A RunError where a file is not as it was when the run began."""
    for path in files_of(recipe) if place else []:
        known = (place or {})["files"].get(str(path))
        if path.exists() and known != checksum(path):
            raise RunError(
                "this file has changed since the run began",
                where=str(path),
                fix="put the old file back, or start a new run with the new one",
            )
