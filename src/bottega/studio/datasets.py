"""Data sets: what was uploaded, as JSON lines, in versions that are never changed.

DATA/NAME/v1/rows.jsonl     the rows
DATA/NAME/v1/offsets.bin    where each row begins, eight bytes each
DATA/NAME/v1/version.json   where it comes from, and what was seen while it was read
DATA/NAME/v1/reading.json   the format of its rows and what their fields are called, once somebody has chosen them
"""

from __future__ import annotations

import json
import re
import shutil
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import bottega
from bottega.studio.names import check_name

ROWS, OFFSETS, VERSION, READING = "rows.jsonl", "offsets.bin", "version.json", "reading.json"

# Rows that are looked at for the names of fields, and lines that hold no row of which the errors are kept.
FIELD_ROWS, KEPT_ERRORS = 1000, 20

# Types of values as a reader calls them.
JSON_TYPES = {
    **{str: "text", int: "number", float: "number", bool: "yes or no", list: "list", dict: "object"},
    type(None): "empty",
}

# Rows between two reports of progress.
REPORT_ROWS = 500


@dataclass(frozen=True)
class Version:
    """A version of a data set.

    origin    (what it was made by, details): `upload`, `fix` of an audit, `labels`, `demo`
    rows      number of rows
    size      bytes of them
    fields    name of each field → type of its values in JSON, of the first rows
    bad       lines that hold no row
    errors    the first of them
    reading   `format` and `mapping` of a recipe's source, if somebody has chosen them; they can be chosen again
    """

    number: int
    origin: tuple[str, dict[str, Any]]
    rows: int
    size: int
    fields: dict[str, str]
    bad: int = 0
    errors: list[str] = field(default_factory=list)
    created: float = 0.0
    reading: dict[str, Any] = field(default_factory=dict)


@dataclass
class _VersionWriter:
    """Writes rows, and notes what a version says about them."""

    count: int = 0
    size: int = 0
    bad: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))

    def add(self, file: BinaryIO, place: str, row: Mapping[str, Any] | bottega.BottegaError) -> None:
        if isinstance(row, bottega.BottegaError):
            self.bad += 1
            if len(self.errors) < KEPT_ERRORS:
                self.errors.append(f"{place}: {row.what}")
            return
        # Lone surrogates, which JSON escapes may hold, have no UTF-8 encoding: they are written as escapes.
        line = (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")
        file.write(line)
        self.offsets.append(self.size)
        self.size += len(line)
        self.count += 1
        if self.count <= FIELD_ROWS:
            for name, value in row.items():
                if value is not None or name not in self.fields:
                    self.fields[name] = JSON_TYPES.get(type(value), "text")


class DataSets:
    """The data sets in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Those that have a version, by alphabet."""
        return sorted({path.parent.parent.name for path in self.folder.glob(f"*/v*/{VERSION}")})

    def versions(self, name: str) -> list[Version]:
        """The versions of a data set, the newest first; a DataError if there is none."""
        found = [_read_version(path) for path in self._folder(name).glob(f"v*/{VERSION}")]
        if not found:
            raise bottega.DataError("no such data set", where=name, fix="choose one of the list, or upload a file")
        return sorted(found, key=lambda version: -version.number)

    def rows_path(self, name: str, number: int | None = None) -> Path:
        """The file of a version, by default the newest."""
        return self._version(name, number) / ROWS

    def source(self, name: str, number: int | None = None) -> dict[str, Any]:
        """A version as a source of a recipe, read as was chosen for it."""
        folder = self._version(name, number)
        return {"path": str(folder / ROWS), **_read_version(folder / VERSION).reading}

    def choose_reading(self, name: str, number: int | None, reading: Mapping[str, Any]) -> None:
        """Choose the `format` and the `mapping` of a version; what is left out is found out from the rows."""
        bottega.write_json(self._version(name, number) / READING, dict(reading))

    def rows(self, name: str, number: int | None, start: int, count: int) -> list[Any]:
        """Some rows of a version."""
        folder = self._version(name, number)
        with (folder / OFFSETS).open("rb") as file:
            file.seek(8 * start)
            offsets = array("q", file.read(8 * (count + 1)))
        if len(offsets) < 2:
            return []
        with (folder / ROWS).open("rb") as file:
            file.seek(offsets[0])
            return [json.loads(file.read(stop - begin)) for begin, stop in pairwise(offsets)]

    def remove(self, name: str) -> None:
        """Delete a data set with all its versions."""
        self.versions(name)
        shutil.rmtree(self._folder(name))

    def free_name(self, wanted: str, reserved: set[str]) -> str:
        """A name like the one wanted that no data set has, and that is not reserved."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted).strip("-_")[:50] or "data"
        taken, number, name = {*self.names(), *reserved}, 1, stem
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        return name

    def write(
        self,
        name: str,
        rows: Iterable[tuple[str, Mapping[str, Any] | bottega.BottegaError]],
        origin: tuple[str, dict[str, Any]],
        tell: bottega.StatusCallback,
        size: int | None = None,
    ) -> Version:
        """Add a version with these rows; a DataError if there is none that can be read.

        rows  (place, fields) of each, or the error of a line that holds none
        size  bytes that the rows will roughly take, for the progress
        """
        writer = _VersionWriter()
        with self._new_version(name) as (folder, number):
            with (folder / ROWS).open("wb") as file:
                for place, row in rows:
                    writer.add(file, place, row)
                    if (writer.count + writer.bad) % REPORT_ROWS == 0:
                        tell("reading rows", min(writer.size, size or 0), size)
            writer.offsets.append(writer.size)
            (folder / OFFSETS).write_bytes(writer.offsets.tobytes())
            if not writer.count:
                raise bottega.DataError(
                    f"no row can be read: {writer.errors[0]}" if writer.errors else "the file has no rows",
                    where=name,
                    fix="check the kind of file, its encoding and its delimiter",
                )
            version = Version(
                number, origin, writer.count, writer.size, writer.fields, writer.bad, writer.errors, time.time()
            )
            bottega.write_json(folder / VERSION, asdict(version))
        return version

    @contextmanager
    def _new_version(self, name: str) -> Iterator[tuple[Path, int]]:
        """(a folder to fill, its number); it gets its name at the end, or disappears after an error."""
        home = self._folder(name)
        number = 1 + max((int(path.name[1:]) for path in home.glob("v*") if path.name[1:].isdigit()), default=0)
        partial = home / f".v{number}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial, number
            partial.rename(home / f"v{number}")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if not any(home.iterdir()):
                home.rmdir()
            raise

    def _version(self, name: str, number: int | None) -> Path:
        newest = self.versions(name)[0].number
        folder = self._folder(name) / f"v{newest if number is None else number}"
        if not (folder / VERSION).exists():
            raise bottega.DataError("no such version", where=f"{name} v{number}", fix=f"the newest is {newest}")
        return folder

    def _folder(self, name: str) -> Path:
        return self.folder / check_name(name, "a data set")


def _read_version(path: Path) -> Version:
    document, reading = bottega.read_json(path), path.with_name(READING)
    chosen = bottega.read_json(reading) if reading.exists() else {}
    return Version(**{**document, "origin": tuple(document["origin"]), "reading": chosen})
