"""Contamination: rows that contain a question of a comparison set within a longer text, or with another answer."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.tokenization.unicode_words import split_words, to_nfc

# Words of an n-gram, and the fraction of an input's n-grams that a row must contain (Chowdhery et al. 2022, section 8).
NGRAM_LENGTH, CONTAINED_FRACTION = 8, 0.7

Hashes = NDArray[np.uint64]


class Overlap(Check):
    """Rows that contain most 8-grams of an input of a comparison set. Shorter inputs are not searched for."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.comparisons: dict[str, _Inputs] = {}

    def add_comparison(self, name: str, entries: Sequence[Entry]) -> None:
        self.comparisons.setdefault(name, _Inputs()).add(entries)

    def add(self, entries: Sequence[Entry]) -> None:
        if self.comparisons:
            for entry in entries:
                word_hashes = _hash_words(entry.content)
                ngrams = _hash_ngrams(word_hashes)
                for inputs in self.comparisons.values():
                    inputs.match(entry.row, ngrams, hash(tuple(word_hashes.tolist())))

    @property
    def unchecked(self) -> str:
        short = sum(inputs.short for inputs in self.comparisons.values())
        if not short:
            return ""
        return f"{short:,} inputs of fewer than {NGRAM_LENGTH} words, which occur in many texts by chance"

    def findings(self) -> Iterator[Finding]:
        for name, inputs in self.comparisons.items():
            if inputs.matches:
                rows = list(inputs.matches)
                yield self.context.finding(
                    "overlap",
                    "error",
                    f"{len(rows)} rows contain most of an input of {name}: the model would know the question",
                    "remove them from the training data, or from the evaluation set",
                    rows,
                    beside=list(inputs.matches.values()),
                    mend="remove",
                )


class _Inputs:
    """An index of the n-grams of a comparison set's inputs. All inputs are added before the first lookup.

    matches  row of the data → row of the comparison set whose input it contains
    short    number of inputs too short to be searched for
    """

    def __init__(self) -> None:
        self.rows, self.sizes = array("q"), array("q")  # per input its row, and its number of n-grams
        self.matches: dict[int, int] = {}
        self.short = 0
        self._contents = set[int]()
        self._ngrams_by_input: list[Hashes] = []
        self._ngrams: Hashes | None = None  # [all n-grams] sorted; None until the first lookup

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            ngrams = np.unique(_hash_ngrams(_hash_words(entry.prompt or entry.content)))
            self.short += not len(ngrams)
            if len(ngrams):
                self._contents.add(hash(tuple(_hash_words(entry.content).tolist())))
                self._ngrams_by_input.append(ngrams)
                self.rows.append(entry.row)
                self.sizes.append(len(ngrams))

    def match(self, row: int, ngrams: Hashes, content: int) -> None:
        """Remember `row` if it contains enough of an input.

        content  hash of the whole row; a row equal to one of this set is a leak, which `duplicates` reports
        """
        if self._ngrams is None:
            self._build_index()
        if not len(ngrams) or content in self._contents or self._ngrams is None:
            return
        # searchsorted may point past the end; after clipping, the comparison rejects such values.
        nearest = np.searchsorted(self._ngrams, ngrams).clip(max=len(self._ngrams) - 1)
        known = self._ngrams[nearest] == ngrams
        if not known.any():
            return
        shared = np.unique(ngrams[known])
        # An n-gram may belong to several inputs: all of them lie between these bounds.
        first, last = np.searchsorted(self._ngrams, shared, "left"), np.searchsorted(self._ngrams, shared, "right")
        hits = np.concatenate([self._input_of[start:end] for start, end in zip(first, last, strict=True)])
        inputs, counts = np.unique(hits, return_counts=True)
        enough = counts >= CONTAINED_FRACTION * self._sizes[inputs]
        if enough.any():
            self.matches[row] = self.rows[int(inputs[enough][0])]

    def _build_index(self) -> None:
        """Sort all n-grams, and note the input of each."""
        if not self._ngrams_by_input:
            return
        ngrams, self._sizes = np.concatenate(self._ngrams_by_input), np.array(self.sizes)
        order = np.argsort(ngrams, kind="stable")
        # [all n-grams] both: an n-gram, and the number of the input it comes from.
        self._ngrams, self._input_of = ngrams[order], np.repeat(np.arange(len(self.sizes)), self._sizes)[order]
        self._ngrams_by_input = []


def _hash_words(text: str) -> Hashes:
    """[words] a hash of each word; Python's, which differs between processes, so it must not be stored."""
    return np.array([hash(word) for word in split_words(to_nfc(text).casefold())], np.int64).view(np.uint64)


def _hash_ngrams(word_hashes: Hashes) -> Hashes:
    """[words - 7] a hash of each n-gram; empty for a shorter text."""
    if len(word_hashes) < NGRAM_LENGTH:
        return word_hashes[:0]
    hashes = np.zeros(len(word_hashes) - NGRAM_LENGTH + 1, np.uint64)
    for offset in range(NGRAM_LENGTH):
        # FNV-like; unsigned overflow wraps around as intended.
        hashes = hashes * np.uint64(0x100000001B3) ^ word_hashes[offset : offset + len(hashes)]
    return hashes
