"""What a name refers to: a run folder, an export, an adapter folder, a model folder or a hub id.

The one place that tells a run from other folders. Where the weights to load come from is `models.source.locate`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bottega import adapters
from bottega.recipe.files import RESOLVED
from bottega.recipe.schema import Recipe
from bottega.runs.export_info import EXPORT_FILE, ExportInfo, read_export_info
from bottega.runs.store import RESULTS, stored_place, stored_recipe

# "path": an absolute path, or an existing relative one, that is none of the others.
Kind = Literal["run", "export", "adapter", "model", "path", "hub id"]


@dataclass(frozen=True)
class ResolvedName:
    """A name and what it refers to. Files are read on access: a damaged run has its kind, and fails on `recipe`."""

    name: str
    kind: Kind

    @property
    def folder(self) -> Path:
        return Path(self.name)

    @property
    def is_run(self) -> bool:
        return self.kind == "run"

    # Cached, because several callers ask and validating a recipe takes milliseconds.
    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of a run, a custom objective replaced by the nearest built-in one; None for a plain model.

        Of an export, a recipe with the objective of its run alone. Raises RunError if what is stored is damaged.
        """
        if self.export is not None:
            return self.export.recipe
        return stored_recipe(self.folder, own_code=False) if self.is_run else None

    @cached_property
    def export(self) -> ExportInfo | None:
        """What an export says of itself; None for anything else."""
        return read_export_info(self.folder) if self.kind == "export" else None

    @property
    def exported_model(self) -> Path:
        """Of an export, the folder with its model and tokenizer: of an adapter in an export, that of its base."""
        assert self.export is not None
        return Path(os.path.normpath(self.folder / self.export.base))

    @cached_property
    def place(self) -> dict[str, Any] | None:
        """The place.json of a run; None for anything else, and for a run that has not started."""
        return stored_place(self.folder) if self.is_run else None

    @property
    def choices(self) -> Mapping[str, Any] | None:
        """What a run decided for its rows, such as labels; None for a plain model, and for a run not started."""
        if self.export is not None:
            return self.export.choices or None
        return self.place["choices"] if self.place else None

    @property
    def result(self) -> Path | None:
        """The folder of a run's model or adapter; None for anything else, and for a run without a result."""
        folders = (self.folder / name for name in RESULTS) if self.is_run else ()
        return next((folder for folder in folders if folder.exists()), None)


def resolve(name: str | Path) -> ResolvedName:
    """What a name refers to. Looks at files only: whether a hub id exists is not asked."""
    folder = Path(name)
    # A run first: a folder inside one is an adapter or a model, but a run folder holds none of their config files.
    if (folder / RESOLVED).exists():
        return ResolvedName(str(name), "run")
    # An export holds a config file as well.
    if (folder / EXPORT_FILE).exists():
        return ResolvedName(str(name), "export")
    if adapters.is_adapter_folder(folder):
        return ResolvedName(str(name), "adapter")
    if (folder / "config.json").exists():
        return ResolvedName(str(name), "model")
    return ResolvedName(str(name), "path" if folder.is_absolute() or folder.exists() else "hub id")
