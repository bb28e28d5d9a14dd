"""A recipe with `adapters`: several adapters of one base, each with sections of its own beside those that all have.

model: {base: models/smol}
objective: {kind: sft}
adapter: {rank: 8}
optim: {epochs: 2}
adapters:
  billing: {data: {train: billing.jsonl}}
  tone: {data: {train: tone.jsonl}, adapter: {rank: 16}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottega.adapters import DEFAULT
from bottega.errors import RecipeError
from bottega.recipe.files import ADAPTERS, EXCLUSIVE_KEYS, read_recipe_file
from bottega.recipe.schema import Recipe

# Sections that one batch has in common.
COMMON = ("model", "objective", "devices")


def load_several(path: str | Path, *overrides: str) -> dict[str, Recipe]:
    """The recipe of each adapter by its name; empty for a recipe without the section. Errors: `Recipe.load`."""
    document, folder = read_recipe_file(Path(path), overrides, {*Recipe.model_fields, ADAPTERS})
    return parse_several(document, folder=folder, where=str(path))


def parse_several(document: Mapping[str, Any], *, folder: Path = Path(), where: str = "recipe") -> dict[str, Recipe]:
    """As `load_several`, from a nested mapping; relative paths resolve against `folder`."""
    shared = {key: value for key, value in document.items() if key != ADAPTERS}
    entries = document.get(ADAPTERS)
    if entries is None:
        return {}
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        fix = "write adapters: {billing: {data: {train: billing.jsonl}}, …}"
        raise RecipeError("names, each with the sections that are its own", where=f"{where}: {ADAPTERS}", fix=fix)
    recipes = {}
    for name, entry in entries.items():
        if common := [key for key in COMMON if key in entry]:
            fix = f"write {common[0]} beside {ADAPTERS}, or train this one by itself"
            raise RecipeError(f"{common[0]} is the same for all", where=f"{where}: {ADAPTERS}.{name}", fix=fix)
        sections = {key: _merged(key, shared.get(key), value) for key, value in entry.items()}
        # A run's name is the name of a folder, and refused if it cannot be one.
        own = {**shared, **sections, "name": str(name)}
        recipes[str(name)] = Recipe.parse(own, folder=folder, where=f"{where}: {ADAPTERS}.{name}")
    return recipes


def _merged(section: str, shared: Any, own: Any) -> Any:
    """A section with the keys of its own in place of those that all have, and of those that exclude them."""
    if not isinstance(shared, Mapping) or not isinstance(own, Mapping):
        return own
    if section == "adapter" and own.get("kind", DEFAULT) != shared.get("kind", DEFAULT):
        return own
    excluded = {
        other.partition(".")[2]
        for pair in EXCLUSIVE_KEYS
        for key, other in (pair, pair[::-1])
        if key.partition(".")[0] == section and key.partition(".")[2] in own
    }
    return {**{key: value for key, value in shared.items() if key not in excluded}, **own}
