"""The model card that stands beside a result: what it was made of, and under which licences.

A card holds nothing of the place it was made at: equal runs leave equal cards.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bottega.models.source import locate
from bottega.recipe.files import load_yaml
from bottega.recipe.schema import Recipe, Source
from bottega.runs.resolve import resolve

UNKNOWN = "unknown"

# Licences by words near the head of their text.
KNOWN = {
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

HEAD_LINES = 6

Part = tuple[str, str, str]


def model_card(recipe: Recipe, *, library: str, examples: int, updates: int, losses: Mapping[str, float | None]) -> str:
    """The card of a result, as Markdown with the head that model hubs read.

    library  what loads it: transformers or peft
    losses   by name; those that are None are left out
    """
    base, licences = recipe.model.base, made_of(recipe)
    head: dict[str, Any] = {"library_name": library, "tags": ["bottega", recipe.objective.kind]}
    if base is not None:
        head["base_model"] = _plain(locate(base).base)
        named = next((licence for what, _, licence in licences if what == "base model"), UNKNOWN)
        head["license"] = named if re.fullmatch(r"[\w.-]+", named) else "other"
    hub = [source.path for source in recipe.train_sources if not Path(source.path).is_absolute()]
    if hub:
        head["datasets"] = hub
    rows = "\n".join(f"| {what} | {name} | {licence} |" for what, name, licence in licences)
    measured = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
    how = recipe.adapter.title if recipe.adapter else "every weight"
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {recipe.name}\n\n"
        f"Trained with the objective `{recipe.objective.kind}` ({how}) on {examples:,} examples in {updates:,} updates"
        f"{': ' + measured if measured else ''}.\n\n"
        f"## Made of\n\n| | | licence |\n|---|---|---|\n{rows}\n\n"
        f"{_warning(licences)}\n\n## Recipe\n\n```yaml\n{_recipe(recipe)}```\n"
    )


def licence_of(path: Path) -> str:
    """The licence of a folder, or of a file by its folder: as a card, a dataset or a licence file there says."""
    folder = path if path.is_dir() else path.parent
    of_dataset = _of_dataset(folder) if folder == path else None  # a file is no part of a dataset that stands near it
    return _of_card(folder / "README.md") or of_dataset or _of_text(folder) or UNKNOWN


def made_of(recipe: Recipe) -> list[Part]:
    """(what, name, licence) of everything the result is made of; of a run it began from, all that went into that."""
    starts = [recipe.model.base, recipe.adapter.start if recipe.adapter else None]
    found: list[Part] = []
    for start in starts:
        recipe_before = resolve(start).recipe if start is not None else None
        if recipe_before is not None:
            found += made_of(recipe_before)
        elif start is not None and start == recipe.model.base:
            found.append(_base_licence(recipe, locate(start).base))
    return list(dict.fromkeys([*found, *map(_data_licence, recipe.train_sources)]))


def _base_licence(recipe: Recipe, base: str) -> Part:
    found = recipe.model.license or (licence_of(Path(base)) if Path(base).is_absolute() else _of_hub(base, "model"))
    return "base model", _plain(base), found


def _data_licence(source: Source) -> Part:
    path = Path(source.path)
    found = source.license or (licence_of(path) if path.is_absolute() else _of_hub(source.path, "dataset"))
    return "data", _plain(source.path), found


def _of_card(card: Path) -> str | None:
    """The licence a card's head names."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        begin, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = load_yaml(head)
        if not begin and isinstance(found, dict) and found.get("license"):
            named = found["license"]
            return ", ".join(map(str, named)) if isinstance(named, list) else str(named)
    return None


def _of_dataset(folder: Path) -> str | None:
    """The licence a dataset saved on disk carries."""
    for info in sorted([*folder.glob("dataset_info.json"), *folder.glob("*/dataset_info.json")])[:1]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(info.read_text(encoding="utf-8"))
            return str(found["license"]) if isinstance(found, dict) and found.get("license") else None
    return None


def _of_text(folder: Path) -> str | None:
    """The licence a licence file is the text of."""
    for path in sorted(path for name in ("LICEN[SC]E*", "COPYING*") for path in folder.glob(name)):
        with contextlib.suppress(OSError, ValueError):
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            begun = " ".join(lines[:HEAD_LINES]).lower()
            named = next((name for words, name in KNOWN.items() if re.search(rf"\b{words}\b", begun)), None)
            return named or (f"see {path.name}: {lines[0][:80]}" if lines else None)
    return None


def _of_hub(name: str, kind: str) -> str:
    """The licence on the card of a model or dataset on the hub; unknown where the hub cannot be asked."""
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(Exception):  # no network, no card: whatever it is, the licence is unknown
        return _of_card(Path(hf_hub_download(name, "README.md", repo_type=kind))) or UNKNOWN
    return UNKNOWN


def _warning(licences: Sequence[Part]) -> str:
    unknown = [f"{what} {name}" for what, name, licence in licences if licence == UNKNOWN]
    if unknown:
        return f"Before you publish it, find out the licence of: {', '.join(unknown)}."
    return "All of these bind what is made of them; read them before you publish it."


def _recipe(recipe: Recipe) -> str:
    """The recipe without what stands at its default, and without paths."""
    document = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    document["objective"] = {"kind": recipe.objective.kind, **document["objective"]}
    return yaml.safe_dump(_named_only(document), sort_keys=False, allow_unicode=True)


def _named_only(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named_only(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named_only(inner) for inner in value]
    return _plain(value) if isinstance(value, str) and Path(value).is_absolute() and Path(value).exists() else value


def _plain(path: str) -> str:
    """A path by its last names only; a hub id as it is. A result folder is named by its run."""
    found = Path(path)
    if not found.is_absolute():
        return path
    return found.parent.name if found.name in ("model", "adapter") else found.name
