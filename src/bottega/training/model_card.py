"""The model card beside a result: how it was trained, from which model and data, and their licences.

A card has no paths of the machine, so that equal runs write equal cards.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bottega.models.source import locate
from bottega.recipe.files import load_yaml, without_folders, without_paths
from bottega.recipe.schema import Recipe, Source
from bottega.runs.resolve import resolve

UNKNOWN = "unknown"

# A phrase in the title of a licence, in lower case → the name that model hubs have for it. The first one found counts.
LICENCE_PHRASES = {
    "apache license": "apache-2.0",
    "mit license": "mit",
    "bsd 3-clause": "bsd-3-clause",
    "bsd 2-clause": "bsd-2-clause",
    "gnu general public license": "gpl",
    "gnu affero general public license": "agpl-3.0",
    "cc0": "cc0-1.0",
    "attribution-sharealike 4.0": "cc-by-sa-4.0",
    "attribution 4.0": "cc-by-4.0",
    "mozilla public license": "mpl-2.0",
}

# Lines of a licence text to look for a phrase in: further down it may name other licences.
TITLE_LINES = 6


class Component(NamedTuple):
    """Something that went into a result: the base model, or a source of training data."""

    kind: str
    name: str
    licence: str


def model_card(recipe: Recipe, *, library: str, examples: int, updates: int, losses: Mapping[str, float | None]) -> str:
    """The card of a result: Markdown with the YAML header that model hubs read.

    library  the library that loads the result: transformers or peft
    losses   by name; those that are None are left out
    """
    base, components = recipe.model.base, list_components(recipe)
    header: dict[str, Any] = {"library_name": library, "tags": ["bottega", recipe.objective.kind]}
    if base is not None:
        header["base_model"] = without_folders(locate(base).base)
        licence = next((component.licence for component in components if component.kind == "base model"), UNKNOWN)
        # Hubs take names, not sentences.
        header["license"] = licence if re.fullmatch(r"[\w.-]+", licence) else "other"
    datasets = [source.path for source in recipe.train_sources if not Path(source.path).is_absolute()]
    if datasets:
        header["datasets"] = datasets
    rows = "\n".join(f"| {kind} | {name} | {licence} |" for kind, name, licence in components)
    shown_losses = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {recipe.name}\n\n"
        f"Trained with the objective `{recipe.objective.kind}` ({_method(recipe)}) on {examples:,} examples in "
        f"{updates:,} updates{': ' + shown_losses if shown_losses else ''}.\n\n"
        f"## Components\n\n| | | licence |\n|---|---|---|\n{rows}\n\n"
        f"{licence_note(components)}\n\n## Recipe\n\n```yaml\n{_recipe_yaml(recipe)}```\n"
    )


def _method(recipe: Recipe) -> str:
    if recipe.adapter is not None:
        return recipe.adapter.title
    return "from scratch" if recipe.model.base is None else "full fine-tuning"


def licence_of(path: Path) -> str:
    """The licence of a folder or file, from the model card, dataset info or licence file in its folder."""
    folder = path if path.is_dir() else path.parent
    # A file beside a saved dataset is no part of it.
    of_dataset = _dataset_licence(folder) if folder == path else None
    return _card_licence(folder / "README.md") or of_dataset or _licence_file(folder) or UNKNOWN


def list_components(recipe: Recipe) -> list[Component]:
    """Everything a result is made of; if it started from a run, the components of that run too."""
    starts = [recipe.model.base, recipe.adapter.start if recipe.adapter else None]
    components: list[Component] = []
    for start in starts:
        earlier_recipe = resolve(start).recipe if start is not None else None
        if earlier_recipe is not None:
            components += list_components(earlier_recipe)
        elif start is not None and start == recipe.model.base:
            components.append(_base_component(recipe, locate(start).base))
    # dict.fromkeys: without repetitions, in order.
    return list(dict.fromkeys([*components, *map(_data_component, recipe.train_sources)]))


def _base_component(recipe: Recipe, base: str) -> Component:
    stored = licence_of(Path(base)) if Path(base).is_absolute() else None
    licence = recipe.model.license or stored or _hub_licence(base, "model")
    return Component("base model", without_folders(base), licence)


def _data_component(source: Source) -> Component:
    path = Path(source.path)
    stored = licence_of(path) if path.is_absolute() else None
    licence = source.license or stored or _hub_licence(source.path, "dataset")
    return Component("data", without_folders(source.path), licence)


def _card_licence(card: Path) -> str | None:
    """The licence in the YAML header of a card; None if there is none."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        before, header, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        fields = load_yaml(header)
        if not before and isinstance(fields, dict) and fields.get("license"):
            licence = fields["license"]
            return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return None


def _dataset_licence(folder: Path) -> str | None:
    """The licence of a dataset that `datasets` saved to disk; None if the folder has none."""
    for path in sorted([*folder.glob("dataset_info.json"), *folder.glob("*/dataset_info.json")])[:1]:
        with contextlib.suppress(OSError, ValueError):
            fields = json.loads(path.read_text(encoding="utf-8"))
            return str(fields["license"]) if isinstance(fields, dict) and fields.get("license") else None
    return None


def _licence_file(folder: Path) -> str | None:
    """The licence whose text is in a licence file, or the file's first line; None if there is no such file."""
    for path in sorted(path for pattern in ("LICEN[SC]E*", "COPYING*") for path in folder.glob(pattern)):
        with contextlib.suppress(OSError, ValueError):
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            title = " ".join(lines[:TITLE_LINES]).lower()
            phrases = LICENCE_PHRASES.items()
            licence = next((name for phrase, name in phrases if re.search(rf"\b{phrase}\b", title)), None)
            return licence or (f"see {path.name}: {lines[0][:80]}" if lines else None)
    return None


def _hub_licence(name: str, kind: str) -> str:
    """The licence on the card of a model or dataset on the hub."""
    from huggingface_hub import hf_hub_download

    # Without a network or a card the licence is unknown; a run must not fail for that.
    with contextlib.suppress(Exception):
        return _card_licence(Path(hf_hub_download(name, "README.md", repo_type=kind))) or UNKNOWN
    return UNKNOWN


def licence_note(components: Sequence[Component]) -> str:
    unknown = [f"{kind} {name}" for kind, name, licence in components if licence == UNKNOWN]
    if unknown:
        return f"Before you publish it, find out the licence of: {', '.join(unknown)}."
    return "All of these licences apply to this model: read them before you publish it."


def _recipe_yaml(recipe: Recipe) -> str:
    """The recipe without default values, and with the names of files instead of their paths."""
    document = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    # The kind is a default of its class, but a recipe cannot be read without it.
    document["objective"] = {"kind": recipe.objective.kind, **document["objective"]}
    return yaml.safe_dump(without_paths(document), sort_keys=False, allow_unicode=True)
