"""A record in the form that checks compare, whatever its class; and the locations of rows, in sixteen bytes each."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from bottega.records import Record


class Entry(NamedTuple):
    """A record, and the parts of it that checks compare: those of `RecordParts`, in its order.

    row  index of the row among all rows of the audit; comparison sets come before the data
    """

    row: int
    record: Record
    prompt: str
    answer: str
    content: str
    texts: tuple[str, ...]
    extras: str

    @property
    def where(self) -> str:
        """The location of the row: `tickets.jsonl line 812`."""
        return self.record.where


def create_entry(row: int, record: Record) -> Entry:
    """The entry of a record of any class."""
    return Entry(row, record, *record.parts())


class RowLocations:
    """The location of every row by its index: `locations[811]` is `tickets.jsonl line 812`.

    Stored as a number for `tickets.jsonl line` and one for `812`: strings would take several times the memory.
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._name_ids, self._lines = array("l"), array("q")

    def add(self, where: str) -> int:
        """Store a location that ends in a number; returns the index of its row."""
        name, _, line = where.rpartition(" ")
        self._name_ids.append(self._names.setdefault(name, len(self._names)))
        self._lines.append(int(line))
        return len(self._lines) - 1

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> str:
        return f"{list(self._names)[self._name_ids[index]]} {self._lines[index]}"
