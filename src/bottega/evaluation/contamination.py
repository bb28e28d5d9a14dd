"""Contamination: evaluation rows that are also training rows; a good score on them says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bottega.auditing.checks.duplicates import hash_entry
from bottega.auditing.entries import create_entry
from bottega.records import Record


def find_leaked_rows(records: Sequence[Record], training: Iterable[Record]) -> set[int]:
    """Indices of the records that, whole or by an input of some length, are also training rows.

    Equal but for white space; near duplicates are found by `bottega audit RECIPE`.
    """
    # The evaluation rows are indexed, not the training rows, which may be too many for memory.
    wanted: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        for value in hash_entry(create_entry(index, record)):
            wanted.setdefault(value, []).append(index)
    # A record has a key for the whole and one for its input: either in the training rows makes it leaked.
    leaked = set[int]()
    for record in training:
        for value in hash_entry(create_entry(0, record)):
            leaked.update(wanted.get(value, ()))
    return leaked
