"""Exact duplicates within the data, and rows of the data that are also in a comparison set (leaks)."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, RowIndices
from bottega.tokenization.unicode_words import count_words, to_nfc

# Words of an input from which two rows with the same input are a leak. Shorter inputs ("Hello!") coincide by chance.
MIN_PROMPT_WORDS = 3

# What a hash covers: "row" all of a row, "prompt" its input only.
HashedPart = Literal["row", "prompt"]


class Duplicates(Check):
    """Rows that are equal in everything they teach; against a comparison set also rows with the same input."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.data = _HashedRows()
        self.comparisons: dict[str, _HashedRows] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        self.data.add(entries)

    def add_comparison(self, name: str, entries: Sequence[Entry]) -> None:
        self.comparisons.setdefault(name, _HashedRows()).add(entries)

    def findings(self) -> Iterator[Finding]:
        hashes, rows = self.data.hashes("row"), np.array(self.data.rows, np.int64)
        _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        repeated = first[group] != np.arange(len(hashes))
        if repeated.any():
            yield self.context.finding(
                "duplicate",
                "warning",
                "the same row again: it is trained on as often as it occurs",
                "keep one of each",
                rows[repeated],
                beside=rows[first[group]][repeated],
                mend="remove",
            )
        for name, comparison in self.comparisons.items():
            yield from self._leaks(name, comparison)

    def _leaks(self, name: str, comparison: _HashedRows) -> Iterator[Finding]:
        same_rows, same_beside = _matches(self.data, comparison, "row")
        same_prompts, prompts_beside = _matches(self.data, comparison, "prompt")
        # A row that matches as a whole is not listed again for its input.
        new = ~np.isin(same_prompts, same_rows)
        rows, beside = np.r_[same_rows, same_prompts[new]], np.r_[same_beside, prompts_beside[new]]
        if len(rows):
            leaked = np.zeros(len(comparison.rows), bool)  # [rows of the comparison set]
            for part in ("row", "prompt"):
                leaked |= np.isin(comparison.hashes(part), self.data.hashes(part))
            yield self.context.finding(
                "leak",
                "error",
                f"{len(rows)} rows, or their inputs, are in {name} as well: {int(leaked.sum())} of its {len(leaked)} "
                f"rows ({leaked.mean():.1%}) would measure memorization",
                "remove them from the training data, or from the evaluation set",
                rows,
                beside=beside,
                mend="remove",
            )


class _HashedRows:
    """Row indices, with a 64-bit hash of the whole row and one of its input: 24 bytes per row."""

    def __init__(self) -> None:
        self.rows, self._row_hashes, self._prompt_hashes = array("q"), array("Q"), array("Q")

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            row_hash, prompt_hash = hash_entry(entry)
            self.rows.append(entry.row)
            self._row_hashes.append(row_hash)
            self._prompt_hashes.append(prompt_hash)

    def hashes(self, part: HashedPart) -> NDArray[np.uint64]:
        return np.array(self._row_hashes if part == "row" else self._prompt_hashes, np.uint64)


def hash_entry(entry: Entry) -> tuple[int, int]:
    """(hash of the whole row, hash of its input), both insensitive to white space.

    Where the input is too short to identify a row, or missing, the second is the first.
    """
    prompt = " ".join(entry.prompt.split())
    row_hash = hash_text(f"{prompt}\0{' '.join(entry.answer.split())}\0{' '.join(entry.extras.split())}")
    # The suffix keeps an input from matching the row hash of a text without answer.
    return row_hash, hash_text(f"{prompt}\0?") if count_words(prompt) >= MIN_PROMPT_WORDS else row_hash


def hash_text(text: str) -> int:
    """A 64-bit hash of a text, the same for composed and decomposed accents, and in every process."""
    # Python's own `hash` differs between processes; `surrogatepass` because JSON may hold lone surrogates.
    digest = hashlib.blake2b(to_nfc(text).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _matches(data: _HashedRows, comparison: _HashedRows, part: HashedPart) -> tuple[RowIndices, RowIndices]:
    """(rows of the data that are in the comparison set, the first row there that equals each)."""
    own, theirs = data.hashes(part), comparison.hashes(part)
    values, first = np.unique(theirs, return_index=True)
    rows, beside = np.array(data.rows, np.int64), np.array(comparison.rows, np.int64)
    if not len(values):
        return rows[:0], beside[:0]
    # searchsorted may point past the end; after clipping, the comparison rejects such values.
    nearest = np.searchsorted(values, own).clip(max=len(values) - 1)
    equal = values[nearest] == own
    return rows[equal], beside[first[nearest[equal]]]
