"""The adapters in a folder of runs: `bottega.list_adapters`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bottega import adapters
from bottega.errors import BottegaError, RunError
from bottega.runs.atomic_files import read_json

# What says how large an adapter is, in PEFT's configs and in settings of our own, and what people call it.
SIZES = {"r": "rank", "width": "width", "tokens": "tokens"}


@dataclass(frozen=True)
class AdapterInfo:
    """A saved adapter.

    name   the run or the folder to use it by
    kind   its kind, in lower case; `size`: its rank or the like, in words
    base   what it was trained on
    bytes  of its weights
    """

    name: str
    kind: str
    size: str
    base: str
    bytes: int


def list_adapters(parent: str | Path = "runs") -> list[AdapterInfo]:
    """Every adapter in a folder: of its runs, and in folders of their own; by name. Damaged ones are left out.

    Raises a RunError if there is no such folder.
    """
    if not Path(parent).is_dir():
        raise RunError("no such folder", where=str(parent), fix="name the folder that runs are in, or go where it is")
    return sorted(_found(Path(parent)), key=lambda info: info.name)


def _found(parent: Path) -> Iterator[AdapterInfo]:
    for folder in (parent, *sorted(path for path in parent.glob("*") if path.is_dir())):
        place = next((one for one in (folder / "adapter", folder) if adapters.is_adapter_folder(one)), None)
        if place is not None:
            with contextlib.suppress(BottegaError):
                yield read_adapter(place, str(folder))


def read_adapter(folder: Path, name: str) -> AdapterInfo:
    """What the files in the folder of an adapter say; a ModelError if they cannot be read."""
    saved, config = adapters.read_saved(folder), read_json(folder / adapters.CONFIG)
    settings = config if saved.kind is None else saved.settings
    size = next((f"{word} {settings[key]}" for key, word in SIZES.items() if settings.get(key)), "")
    kind = str(config.get("peft_type", saved.kind)).lower()
    return AdapterInfo(
        name, kind, size, saved.base, sum(file.stat().st_size for file in folder.glob(adapters.WEIGHT_FILES))
    )
