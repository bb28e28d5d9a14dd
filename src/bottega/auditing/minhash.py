"""Which texts are nearly the same: MinHash finds pairs that may be (Broder 1997), their own grams decide.

A text is the set of the five-character runs of its words, in small letters, without punctuation. Two are nearly the
same when what they have in common is a large enough share of what either has (Jaccard). What many rows have, such as
an instruction at the head of each, is left out first. Signatures and sets lie on disk: memory does not grow with them.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.tokenization.unicode_words import composed, words

GRAM = 5
LONGEST = 20_000
"""Characters of a text that are compared; of a book, its beginning."""

FOUND, LARGEST = 0.999, 80
"""Share of the pairs at the threshold that are to be found, and most chances they have."""

SAMPLE, FEWEST, COMMON = 1000, 100, 0.25
"""Grams that more than this share of the first rows hold are left out, where there are rows enough to tell."""

CROWD = 30
"""In a larger group of candidates each is compared with the first of it and its neighbour only."""

Grams = NDArray[np.uint32]


class Near:
    """An index of texts by what they are made of."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash

        self.threshold = threshold
        self.bands, self.depth = banding(threshold)
        self._sketch = MinHash(num_perm=self.bands * self.depth, seed=1, hashfunc=int)
        self._grams, self._bands = _Column(np.uint32), _Column(np.uint64)
        self._ends, self.numbers = array("q", [0]), array("q")
        self._waiting: list[tuple[int, Grams]] = []
        self._common: Grams | None = None

    def add(self, number: int, text: str) -> None:
        """A text under the number of its row."""
        grams = grams_of(text)
        if self._common is not None:
            self._keep(number, grams)
            return
        self._waiting.append((number, grams))
        if len(self._waiting) == SAMPLE:
            self._settle()

    def _settle(self) -> None:
        """From the first texts, what is common; then they are kept like the rest."""
        waiting, self._waiting = self._waiting, []
        found = [grams for _, grams in waiting] if len(waiting) >= FEWEST else []
        values, counts = np.unique(np.concatenate(found or [np.empty(0, np.uint32)]), return_counts=True)
        self._common = values[counts > COMMON * len(waiting)]
        for number, grams in waiting:
            self._keep(number, grams)

    def _keep(self, number: int, grams: Grams) -> None:
        assert self._common is not None
        if len(self._common):
            place = np.searchsorted(self._common, grams).clip(max=len(self._common) - 1)
            own = grams[self._common[place] != grams]
            grams = own if len(own) >= GRAM else grams
        self._sketch.clear()
        self._sketch.update_batch(grams.tolist())
        bands = self._sketch.hashvalues.reshape(self.bands, self.depth).astype(np.uint64)
        self._bands.write((bands * FACTORS[: self.depth]).sum(1))
        self._grams.write(grams)
        self._ends.append(self._ends[-1] + len(grams))
        self.numbers.append(number)

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        """(earlier row, later row, what they have in common) of all that are nearly the same."""
        if self._common is None:
            self._settle()
        if len(self.numbers) < 2:
            return
        grams = self._grams.read()
        for one, other in self._candidates():
            mine, theirs = (grams[self._ends[place] : self._ends[place + 1]] for place in (one, other))
            if min(len(mine), len(theirs)) < self.threshold * max(len(mine), len(theirs)):
                continue
            shared = len(np.intersect1d(mine, theirs, assume_unique=True))
            alike = shared / (len(mine) + len(theirs) - shared)
            if alike >= self.threshold:
                yield self.numbers[one], self.numbers[other], alike

    def _candidates(self) -> list[tuple[int, int]]:
        """Places of texts that agree in a band, the earlier first."""
        bands = self._bands.read().reshape(-1, self.bands)
        size = len(bands)
        found = np.empty(0, np.int64)
        for number in range(self.bands):
            band = np.array(bands[:, number])
            order = np.argsort(band, kind="stable")
            ordered = band[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            counts = np.diff(np.r_[starts, size])
            new = [_paired(order[start : start + count], size) for start, count in _several(starts, counts)]
            found = np.unique(np.concatenate([found, *new]))
        return list(zip((found // size).tolist(), (found % size).tolist(), strict=True))


FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)
"""Odd numbers by which the signature numbers of a band become one."""


def banding(threshold: float) -> tuple[int, int]:
    """(chances, signature numbers that must agree in one): as many as find nearly all pairs with so much in common."""
    for depth in range(len(FACTORS), 1, -1):
        chances = math.ceil(math.log(1 - FOUND) / math.log1p(-(min(threshold, 0.99) ** depth)))
        if chances <= LARGEST:
            return chances, depth
    return LARGEST, 1


def grams_of(text: str) -> Grams:
    """The sorted hashes of a text's runs of characters; of a text shorter than one, its own."""
    plain = " ".join(words(composed(text[:LONGEST]).casefold())) or text[:LONGEST]
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32)
    length = max(1, len(codes) - GRAM + 1)
    mixed = np.zeros(length, np.uint32)
    for place in range(min(GRAM, len(codes))):
        mixed = mixed * np.uint32(0x01000193) ^ codes[place : place + length] * np.uint32(0x9E3779B1)
    return np.unique(mixed)


def _several(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    more = counts > 1
    return zip(starts[more].tolist(), counts[more].tolist(), strict=True)


def _paired(group: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Pairs of a group of places, each as one number."""
    if len(group) <= CROWD:
        one, other = np.triu_indices(len(group), 1)
        return group[one] * size + group[other]
    first = np.full(len(group) - 1, group[0])
    return np.concatenate([first * size + group[1:], group[:-1] * size + group[1:]])


class _Column:
    """Numbers of one type in a nameless file, written one after the other and then read."""

    def __init__(self, dtype: Any) -> None:
        self._dtype, self._file, self._count = np.dtype(dtype), tempfile.TemporaryFile(), 0  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def write(self, values: NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self._count += len(values)

    def read(self) -> NDArray[Any]:
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", 0, (self._count,))
