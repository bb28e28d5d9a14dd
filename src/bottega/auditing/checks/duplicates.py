"""Rows that stand twice in the data, or in the data and in what it is to be measured on."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Numbers
from bottega.tokenization.unicode_words import composed, counted

SHORTEST = 3
"""Words of an input from which on having it in common is more than chance."""


class Duplicates(Check):
    """Rows that are the same in all they teach; with rows of another file, also those with the same input only."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.own = _Keys()
        self.others: dict[str, _Keys] = {}

    def see(self, entries: Sequence[Entry]) -> None:
        self.own.add(entries)

    def compare(self, name: str, entries: Sequence[Entry]) -> None:
        self.others.setdefault(name, _Keys()).add(entries)

    def findings(self) -> Iterator[Finding]:
        whole, rows = self.own.of("whole"), np.array(self.own.rows, np.int64)
        _, first, group = np.unique(whole, return_index=True, return_inverse=True)
        again = first[group] != np.arange(len(whole))
        if again.any():
            yield self.context.finding(
                "duplicate",
                "warning",
                "the same row again: it is learned as often as it stands there",
                "keep one of each",
                rows[again],
                beside=rows[first[group]][again],
                mend="remove",
            )
        for name, other in self.others.items():
            yield from self._leaks(name, other)

    def _leaks(self, name: str, other: _Keys) -> Iterator[Finding]:
        found, beside = _met(self.own, other, "whole")
        inputs, with_input = _met(self.own, other, "asked")
        fresh = ~np.isin(inputs, found)
        rows, beside = np.r_[found, inputs[fresh]], np.r_[beside, with_input[fresh]]
        if len(rows):
            seen = np.isin(other.of("whole"), self.own.of("whole")) | np.isin(other.of("asked"), self.own.of("asked"))
            yield self.context.finding(
                "leak",
                "error",
                f"{len(rows)} rows, or their inputs, stand in {name} too: {int(seen.sum())} of its {len(seen)} rows "
                f"({seen.mean():.1%}) would measure memory",
                "remove them from what is trained on, or from what is measured on",
                rows,
                beside=beside,
                mend="remove",
            )


class _Keys:
    """Of each row its number, and hashes of the whole of it and of its input."""

    def __init__(self) -> None:
        self.rows, self._whole, self._asked = array("q"), array("Q"), array("Q")

    def add(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            whole, asked = keys(one)
            self.rows.append(one.number)
            self._whole.append(whole)
            self._asked.append(asked)

    def of(self, name: str) -> NDArray[np.uint64]:
        return np.array(self._whole if name == "whole" else self._asked, np.uint64)


def keys(one: Entry) -> tuple[int, int]:
    """(of the whole row, of its input; white space aside)."""
    asked = " ".join(one.asked.split())
    whole = key(f"{asked}\0{' '.join(one.answer.split())}\0{' '.join(one.rest.split())}")
    # A short question says little of a row; of a text without one nothing else is there to compare.
    return whole, key(f"{asked}\0?") if counted(asked) >= SHORTEST else whole


def key(text: str) -> int:
    """Sixty-four bits of a text, however its accents are encoded."""
    return int.from_bytes(
        hashlib.blake2b(composed(text).encode(errors="surrogatepass"), digest_size=8).digest(), "little"
    )


def _met(own: _Keys, other: _Keys, what: str) -> tuple[Numbers, Numbers]:
    """(own rows that stand in the other file, the first row there that each is like)."""
    mine, theirs = own.of(what), other.of(what)
    values, first = np.unique(theirs, return_index=True)
    rows, beside = np.array(own.rows, np.int64), np.array(other.rows, np.int64)
    if not len(values):
        return rows[:0], beside[:0]
    place = np.searchsorted(values, mine).clip(max=len(values) - 1)
    met = values[place] == mine
    return rows[met], beside[first[place[met]]]
