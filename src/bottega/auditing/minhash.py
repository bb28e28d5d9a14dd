"""Near duplicates: MinHash proposes pairs of similar texts (Broder 1997), their exact Jaccard similarity decides.

A text is the set of the five-character shingles of its words, case-folded and without punctuation. Shingles that many
rows share, such as those of an instruction at the start of each, are left out. Signatures and shingles are stored on
disk, so that memory does not grow with the length of the texts.
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

from bottega.tokenization.unicode_words import split_words, to_nfc

SHINGLE_LENGTH = 5

# Characters of a text that are compared. Of a book only the start is.
MAX_CHARACTERS = 20_000

# Fraction of the pairs at exactly the threshold that the bands must propose; pairs above it are missed less often.
RECALL = 0.999
# Each band costs eight bytes per row on disk, and a sort of all rows.
MAX_BANDS = 80

# Shingles in more than this fraction of the first texts are boilerplate. Estimated from SAMPLE_SIZE texts, and not at
# all from fewer than MIN_SAMPLE: in a small file a quarter of the rows are soon alike by content.
SAMPLE_SIZE, MIN_SAMPLE, COMMON_FRACTION = 1000, 100, 0.25

# A larger group of texts that agree in a band is not compared pair by pair, which would be quadratic. Each text is
# compared with the first of the group and with its neighbor, which still links all of a group of true duplicates.
MAX_GROUP = 30

# Odd 64-bit multipliers that combine the hash values of a band into one key. Their number is the greatest depth.
BAND_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)

Shingles = NDArray[np.uint32]  # sorted, without repetitions


class NearDuplicateIndex:
    """Collects texts, then yields all pairs whose Jaccard similarity reaches a threshold."""

    def __init__(self, threshold: float) -> None:
        # Optional dependency; the check that uses this index declares it.
        from datasketch import MinHash

        self.threshold = threshold
        self.bands, self.depth = choose_bands(threshold)
        # `hashfunc=int` because shingles are hashes already; the fixed seed makes audits reproducible.
        self._minhash = MinHash(num_perm=self.bands * self.depth, seed=1, hashfunc=int)
        self._shingles, self._band_keys = _DiskArray(np.uint32), _DiskArray(np.uint64)
        # Text i has the shingles _ends[i] to _ends[i + 1], and belongs to row `rows[i]`.
        self._ends, self.rows = array("q", [0]), array("q")
        self._sample: list[tuple[int, Shingles]] = []
        self._common: Shingles | None = None  # None until the sample is complete

    def add(self, row: int, text: str) -> None:
        """Add a text under the index of its row."""
        shingles = hash_shingles(text)
        if self._common is not None:
            self._store(row, shingles)
            return
        self._sample.append((row, shingles))
        if len(self._sample) == SAMPLE_SIZE:
            self._find_common_shingles()

    def _find_common_shingles(self) -> None:
        """Determine the common shingles from the sample, then store the sample like all other texts."""
        sample, self._sample = self._sample, []
        sampled = [shingles for _, shingles in sample] if len(sample) >= MIN_SAMPLE else []
        values, counts = np.unique(np.concatenate(sampled or [np.empty(0, np.uint32)]), return_counts=True)
        self._common = values[counts > COMMON_FRACTION * len(sample)]
        for row, shingles in sample:
            self._store(row, shingles)

    def _store(self, row: int, shingles: Shingles) -> None:
        assert self._common is not None
        if len(self._common):
            # searchsorted may point past the end; after clipping, the comparison rejects such values.
            nearest = np.searchsorted(self._common, shingles).clip(max=len(self._common) - 1)
            specific = shingles[self._common[nearest] != shingles]
            # A text made of boilerplate alone keeps it: otherwise all of these would be equal as empty sets.
            shingles = specific if len(specific) >= SHINGLE_LENGTH else shingles
        self._minhash.clear()
        self._minhash.update_batch(shingles.tolist())
        signature = self._minhash.hashvalues.reshape(self.bands, self.depth).astype(np.uint64)  # [bands, depth]
        # uint64 products wrap around, which is what a multiplicative hash wants.
        self._band_keys.append((signature * BAND_MULTIPLIERS[: self.depth]).sum(1))
        self._shingles.append(shingles)
        self._ends.append(self._ends[-1] + len(shingles))
        self.rows.append(row)

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        """(earlier row, later row, Jaccard similarity) of every pair that reaches the threshold."""
        if self._common is None:
            self._find_common_shingles()
        if len(self.rows) < 2:
            return
        shingles = self._shingles.read()
        for first, second in self._candidates():
            first_set, second_set = (shingles[self._ends[text] : self._ends[text + 1]] for text in (first, second))
            # The similarity is at most the ratio of the sizes: most candidates that fail do so here, cheaply.
            if min(len(first_set), len(second_set)) < self.threshold * max(len(first_set), len(second_set)):
                continue
            shared = len(np.intersect1d(first_set, second_set, assume_unique=True))
            similarity = shared / (len(first_set) + len(second_set) - shared)
            if similarity >= self.threshold:
                yield self.rows[first], self.rows[second], similarity

    def _candidates(self) -> list[tuple[int, int]]:
        """Pairs of texts (earlier, later) that agree in at least one band."""
        keys = self._band_keys.read().reshape(-1, self.bands)  # [texts, bands]
        count = len(keys)
        candidates = np.empty(0, np.int64)  # a pair as one number: earlier · count + later
        for number in range(self.bands):
            band = np.array(keys[:, number])  # a copy in memory: the column is strided over the whole file
            order = np.argsort(band, kind="stable")
            ordered = band[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            sizes = np.diff(np.r_[starts, count])
            several = sizes > 1
            groups = zip(starts[several].tolist(), sizes[several].tolist(), strict=True)
            pairs = [_pairs_within(order[start : start + size], count) for start, size in groups]
            # Merged after every band, so that pairs that agree in many bands are kept once.
            candidates = np.unique(np.concatenate([candidates, *pairs]))
        return list(zip((candidates // count).tolist(), (candidates % count).tolist(), strict=True))


def choose_bands(threshold: float) -> tuple[int, int]:
    """(bands, hash values per band) that propose RECALL of the pairs at the threshold.

    A pair of similarity s agrees in a band of depth d with probability sᵈ. Deeper bands propose fewer false pairs, so
    the greatest depth is chosen whose number of bands is affordable.
    """
    for depth in range(len(BAND_MULTIPLIERS), 1, -1):
        # Capped at 0.99: log1p(-1) is infinite for a threshold of 1.
        bands = math.ceil(math.log(1 - RECALL) / math.log1p(-(min(threshold, 0.99) ** depth)))
        if bands <= MAX_BANDS:
            return bands, depth
    return MAX_BANDS, 1


def hash_shingles(text: str) -> Shingles:
    """The sorted hashes of a text's shingles; a text shorter than a shingle is hashed whole."""
    # A text without a word (punctuation, emoji) is compared as it stands.
    plain = " ".join(split_words(to_nfc(text[:MAX_CHARACTERS]).casefold())) or text[:MAX_CHARACTERS]
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32)  # [characters]
    count = max(1, len(codes) - SHINGLE_LENGTH + 1)
    hashes = np.zeros(count, np.uint32)
    # FNV-like: one pass over all shingles for each of their characters instead of a loop over shingles.
    for offset in range(min(SHINGLE_LENGTH, len(codes))):
        hashes = hashes * np.uint32(0x01000193) ^ codes[offset : offset + count] * np.uint32(0x9E3779B1)
    return np.unique(hashes)


def _pairs_within(group: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Candidate pairs within a group of texts, given in ascending order, each pair as earlier · count + later."""
    if len(group) <= MAX_GROUP:
        first, second = np.triu_indices(len(group), 1)
        return group[first] * count + group[second]
    head = np.full(len(group) - 1, group[0])
    return np.concatenate([head * count + group[1:], group[:-1] * count + group[1:]])


class _DiskArray:
    """An array in an unnamed temporary file: appended to, then read as a memory map."""

    def __init__(self, dtype: Any) -> None:
        self._dtype, self._file, self._count = np.dtype(dtype), tempfile.TemporaryFile(), 0  # noqa: SIM115
        # The file lives as long as this object, so it cannot be a context manager; this avoids a ResourceWarning.
        weakref.finalize(self, self._file.close)

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self._count += len(values)

    def read(self) -> NDArray[Any]:
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", 0, (self._count,))
