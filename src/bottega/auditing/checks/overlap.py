"""Rows that hold a question of another file within: copied into a longer text, or with another answer."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.tokenization.unicode_words import composed, words

RUN, SHARE = 8, 0.7
"""Words of a run, and the share of an input's runs that a row must hold (Chowdhery et al. 2022, section 8)."""

Hashes = NDArray[np.uint64]


class Overlap(Check):
    """Which rows hold most of the eight-word runs of an input of another file; shorter inputs are not looked for."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.others: dict[str, _Inputs] = {}

    def compare(self, name: str, entries: Sequence[Entry]) -> None:
        self.others.setdefault(name, _Inputs()).add(entries)

    def see(self, entries: Sequence[Entry]) -> None:
        if self.others:
            for one in entries:
                words = _words(one.content)
                runs = _runs(words)
                for other in self.others.values():
                    other.look(one.number, runs, hash(tuple(words.tolist())))

    @property
    def unchecked(self) -> str:
        short = sum(other.short for other in self.others.values())
        return f"{short:,} inputs of fewer than {RUN} words, which stand in many a text by chance" if short else ""

    def findings(self) -> Iterator[Finding]:
        for name, other in self.others.items():
            if other.found:
                yield self.context.finding(
                    "overlap",
                    "error",
                    f"{len(other.found)} rows hold most of an input of {name}: the question is known before the exam",
                    "remove them from what is trained on, or from what is measured on",
                    list(other.found),
                    beside=list(other.found.values()),
                    mend="remove",
                )


class _Inputs:
    """The runs of the inputs of another file, and the rows that hold most of one.

    found  row of the data → row of the file
    short  inputs that were not looked for
    """

    def __init__(self) -> None:
        self.rows, self.sizes = array("q"), array("q")
        self.found: dict[int, int] = {}
        self.short = 0
        self._same = set[int]()
        self._parts: list[Hashes] = []
        self._runs: Hashes | None = None

    def add(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            words = _words(one.asked or one.content)
            runs = np.unique(_runs(words))
            self.short += not len(runs)
            if len(runs):
                self._same.add(hash(tuple(_words(one.content).tolist())))
                self._parts.append(runs)
                self.rows.append(one.number)
                self.sizes.append(len(runs))

    def look(self, row: int, runs: Hashes, whole: int) -> None:
        """Remember `row` if it holds most of an input; the very same text is told of elsewhere."""
        if self._runs is None:
            self._seal()
        if not len(runs) or whole in self._same or self._runs is None:
            return
        place = np.searchsorted(self._runs, runs).clip(max=len(self._runs) - 1)
        met = self._runs[place] == runs
        if not met.any():
            return
        held = np.unique(runs[met])
        first, last = np.searchsorted(self._runs, held, "left"), np.searchsorted(self._runs, held, "right")
        inputs = np.concatenate([self._of[a:b] for a, b in zip(first, last, strict=True)])
        numbers, counts = np.unique(inputs, return_counts=True)
        enough = counts >= SHARE * self._sizes[numbers]
        if enough.any():
            self.found[row] = self.rows[int(numbers[enough][0])]

    def _seal(self) -> None:
        """Sort the runs, so that they can be looked up."""
        if not self._parts:
            return
        runs, self._sizes = np.concatenate(self._parts), np.array(self.sizes)
        order = np.argsort(runs, kind="stable")
        self._runs, self._of = runs[order], np.repeat(np.arange(len(self.sizes)), self._sizes)[order]
        self._parts = []


def _words(text: str) -> Hashes:
    """A number for each word, the same within this process."""
    return np.array([hash(word) for word in words(composed(text).casefold())], np.int64).view(np.uint64)


def _runs(words: Hashes) -> Hashes:
    """A number for each run of words."""
    if len(words) < RUN:
        return words[:0]
    mixed = np.zeros(len(words) - RUN + 1, np.uint64)
    for place in range(RUN):
        mixed = mixed * np.uint64(0x100000001B3) ^ words[place : place + len(mixed)]
    return mixed
