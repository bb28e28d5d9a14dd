"""The validation split: which records are held out. Records with the same prompt are always on the same side."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bottega.errors import DataError
from bottega.records import Labelled, Record, Text

Side = Literal["train", "validation"]


class SplitKeys:
    """What a split needs to know of the records of a stream: sixteen bytes of each.

    stratified  hold out the same fraction of every label, and never all records of a label
    """

    def __init__(self, *, stratified: bool = False) -> None:
        self.stratified, self.documents = stratified, True  # whether all records are whole documents
        self.prompts, self.labels = array("Q"), array("l")
        self._numbers = dict[str, int]()

    def add(self, record: Record) -> None:
        self.prompts.append(_hash_prompt(record.prompt_key))
        label = self._numbers.setdefault(_label_of(record), len(self._numbers)) if self.stratified else 0
        self.labels.append(label)
        self.documents = self.documents and is_document(record)

    def select(self, fraction: float, seed: int) -> NDArray[np.bool_]:
        """[records] whether each is held out: at least `fraction` of them."""
        return _select_validation(np.array(self.prompts, np.uint64), np.array(self.labels), fraction, seed)


class Split:
    """The side of each record of a stream, decided in one pass over it.

    At least `fraction` of the records are held out. If there are too few documents for that (a book, a handful of
    files), each document is cut and its end is held out: blocks sampled from the middle would leak their neighbours.
    """

    def __init__(self, records: Iterable[Record], fraction: float, seed: int, *, stratified: bool = False) -> None:
        self.fraction, keys = fraction, SplitKeys(stratified=stratified)
        for record in records:
            keys.add(record)
        cut = keys.documents and len(keys.prompts) < 2 / fraction
        self.held = None if cut else keys.select(fraction, seed)

    def sides(self, number: int, record: Record) -> Iterator[tuple[Side, Record]]:
        """Yield (side, record) for record `number` of the stream: one pair, or one for each part of a cut document."""
        if self.held is not None:
            yield "validation" if self.held[number] else "train", record
            return
        assert isinstance(record, Text)
        cut = int(len(record.text) * (1 - self.fraction))
        yield "train", replace(record, text=record.text[:cut])
        yield "validation", replace(record, text=record.text[cut:])


def is_document(record: Record) -> bool:
    """Whether a record is a text without an answer, of which a split may hold out the end."""
    return isinstance(record, Text) and not record.answer


def _hash_prompt(prompt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _label_of(record: Record) -> str:
    return record.label if isinstance(record, Labelled) else ""


def _select_validation(
    keys: NDArray[np.uint64], labels: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """[rows] whether each row is held out. Rows with the same key form a group, with the label of its first row."""
    _, first, group, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    # Arrays, not lists: of millions of groups, the numbers as objects would take more memory than all else.
    sizes, order = array("q", counts.tobytes()), array("q", range(len(counts)))
    random.Random(f"{seed} split").shuffle(order)
    if labels.any():
        strata = defaultdict[int, list[int]](list)
        for number, label in zip(order, labels[first[order]].tolist(), strict=True):
            strata[label].append(number)
        chosen = [number for stratum in strata.values() for number in _select_from_label(stratum, sizes, fraction)]
    else:
        # 0.1 · 70 is slightly above 7 in binary, and would be rounded up to 8.
        chosen = _select_groups(order, sizes, math.ceil(fraction * len(keys) - 1e-9))
    if not 0 < sum(sizes[number] for number in chosen) < len(keys):
        raise DataError(
            f"{len(keys)} rows with {len(sizes)} different prompts cannot be split by {fraction}",
            where="data.validation",
            fix="give a validation file, or a larger fraction",
        )
    return np.asarray(np.isin(group, chosen))


def _select_from_label(stratum: Sequence[int], sizes: Sequence[int], fraction: float) -> list[int]:
    """The groups of one label to hold out: the rounded fraction, at least one group, and never all of them."""
    wanted = max(1, round(fraction * sum(sizes[number] for number in stratum)))
    return _select_groups(stratum, sizes, wanted)[: len(stratum) - 1]


def _select_groups(order: Sequence[int], sizes: Sequence[int], wanted: int) -> list[int]:
    """Groups that together hold `wanted` rows, or as few more as possible.

    A group larger than the remaining need is postponed; postponed groups are used last, the smallest first.
    """
    chosen, large, taken = list[int](), list[int](), 0
    for number in order:
        if taken == wanted:
            break
        if taken + sizes[number] <= wanted:
            chosen.append(number)
            taken += sizes[number]
        else:
            large.append(number)
    for number in sorted(large, key=sizes.__getitem__):
        if taken < wanted:
            chosen.append(number)
            taken += sizes[number]
    return chosen
