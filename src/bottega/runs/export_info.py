"""What an export says of itself in `export.json`: how to run it, and what it was trained for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bottega.errors import RunError
from bottega.objectives import HeadKind, nearest_builtin_options
from bottega.recipe.files import without_paths
from bottega.recipe.schema import Recipe

EXPORT_FILE = "export.json"

# Of the choices of a run, those that its model needs when it is used.
USED_CHOICES = ("labels", "max_length")


@dataclass(frozen=True)
class ExportInfo:
    """The contents of `export.json`, without what was measured.

    format, precision  as the export was asked for
    runtime            kind of the runtime that runs it, a module of `inference.runtimes`
    head               kind of its head
    origin             name of what was exported: the folder's name, or the hub id
    objective          options of the objective that it was trained with, without paths; None if it was no run
    choices            what the run decided for its rows: labels and max_length
    base               of an adapter in an export, the way from its folder to that of the export; else empty
    """

    format: str
    precision: str
    runtime: str
    head: HeadKind
    origin: str
    objective: Mapping[str, Any] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""

    @cached_property
    def recipe(self) -> Recipe | None:
        """A recipe with the objective that the model was trained with, and nothing else of its run."""
        if self.objective is None:
            return None
        # Required by every recipe, and read by nothing that uses a model.
        required = {"model": {"base": self.origin}, "data": {"train": "rows.jsonl"}}
        return Recipe.parse({**required, "objective": dict(self.objective)})

    def write(self, folder: Path, comparison: Mapping[str, Any]) -> None:
        """Write `export.json`; `comparison`: what was measured of it beside what was trained."""
        document = asdict(self) | {"comparison": comparison}
        (folder / EXPORT_FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def read_export_info(folder: Path) -> ExportInfo:
    """What the export in a folder says of itself; a RunError if that is damaged."""
    path = folder / EXPORT_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return ExportInfo(**{name: value for name, value in document.items() if name != "comparison"})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        fix = "export the model again: bottega export"
        raise RunError(f"the file is damaged: {error}", where=str(path), fix=fix) from None


def portable_objective(recipe: Recipe) -> dict[str, Any]:
    """The options of a run's objective, or of the nearest built-in one, with paths cut to the names of their files."""
    options: dict[str, Any] = without_paths(nearest_builtin_options(recipe.objective))
    return options
