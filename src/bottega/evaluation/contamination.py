"""Which rows of an exam stand in what was learned: a good mark on them says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bottega.auditing.checks.duplicates import keys
from bottega.auditing.entries import entry
from bottega.records import Record


def find_leaked_rows(records: Sequence[Record], training: Iterable[Record]) -> set[int]:
    """The numbers of the records whose whole, or whose input of a few words, stands in the training rows.

    The same to the letter, white space aside; what is nearly the same, `bottega audit RECIPE` finds.
    """
    wanted: dict[int, list[int]] = {}
    for number, record in enumerate(records):
        for key in keys(entry(number, record)):
            wanted.setdefault(key, []).append(number)
    found = set[int]()
    for record in training:
        for key in keys(entry(0, record)):
            found.update(wanted.get(key, ()))
    return found
