"""The validation split: which records are held out. Records with the same prompt are always on the same side."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bottega.errors import DataError
from bottega.records import Labelled, Record, Text

Side = Literal["train", "validation"]

# Rows of which the groups are looked up at a time.
LOOKUP_ROWS = 1 << 16

# Four bytes each. In quotes, because Python 3.11 cannot subscript the class.
Numbers: TypeAlias = "array[int]"


class SplitKeys:
    """What a split needs to know of the records of a stream: eight bytes of each, twelve if it is stratified.

    stratified  hold out the same fraction of every label, and never all records of a label
    """

    def __init__(self, *, stratified: bool = False) -> None:
        self.stratified, self.documents = stratified, True  # whether all records are whole documents
        self.prompts, self.labels = array("Q"), array("I")
        self._numbers = dict[str, int]()

    def add(self, record: Record) -> None:
        self.prompts.append(_hash_prompt(record.prompt_key))
        if self.stratified:
            self.labels.append(self._numbers.setdefault(_label_of(record), len(self._numbers)))
        self.documents = self.documents and is_document(record)

    def select(self, fraction: float, seed: int) -> NDArray[np.bool_]:
        """[records] whether each is held out: at least `fraction` of them."""
        labels = np.asarray(self.labels) if len(self._numbers) > 1 else None
        return _select_validation(np.asarray(self.prompts), labels, fraction, seed)


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
    keys: NDArray[np.uint64], labels: NDArray[np.uint32] | None, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """[rows] whether each row is held out. Rows with the same key form a group, with the label of its first row.

    labels  [rows]; None if no label has a fraction of its own
    """
    # Arrays, not lists, here and below: of millions of groups, the numbers as objects would take more than all else.
    groups, sizes = _count_groups(keys)
    order = array("I", range(len(groups)))
    random.Random(f"{seed} split").shuffle(order)
    if labels is not None:
        strata = defaultdict[int, Numbers](lambda: array("I"))
        first = np.unique(keys, return_index=True)[1]  # [groups]
        for number, label in zip(order, labels[first[order]].tolist(), strict=True):
            strata[label].append(number)
        chosen = array("I")
        for stratum in strata.values():
            chosen.extend(_select_from_label(stratum, sizes, fraction))
    else:
        # 0.1 · 70 is slightly above 7 in binary, and would be rounded up to 8.
        chosen = _select_groups(order, sizes, math.ceil(fraction * len(keys) - 1e-9))
    if not 0 < sum(sizes[number] for number in chosen) < len(keys):
        raise DataError(
            f"{len(keys)} rows with {len(sizes)} different prompts cannot be split by {fraction}",
            where="data.validation",
            fix="give a validation file, or a larger fraction",
        )
    is_chosen = np.zeros(len(groups), np.bool_)
    is_chosen[np.asarray(chosen)] = True
    held = np.empty(len(keys), np.bool_)
    for start in range(0, len(keys), LOOKUP_ROWS):
        places = np.searchsorted(groups, keys[start : start + LOOKUP_ROWS])
        held[start : start + LOOKUP_ROWS] = is_chosen[places]
    return held


def _count_groups(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Numbers]:
    """(the different keys in ascending order, how many rows have each): `np.unique` in half the memory."""
    ordered = np.sort(keys)
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    groups = ordered if begins.all() else ordered[begins]
    starts = np.flatnonzero(begins)  # [groups] the place of the first row of each
    sizes = array("I")
    sizes.frombytes(np.diff(starts, append=len(keys)).astype(np.uint32).view(np.uint8).data)
    return groups, sizes


def _select_from_label(stratum: Numbers, sizes: Numbers, fraction: float) -> Numbers:
    """The groups of one label to hold out: the rounded fraction, at least one group, and never all of them."""
    wanted = max(1, round(fraction * sum(sizes[number] for number in stratum)))
    return _select_groups(stratum, sizes, wanted)[: len(stratum) - 1]


def _select_groups(order: Numbers, sizes: Numbers, wanted: int) -> Numbers:
    """Groups that together hold `wanted` rows, or as few more as possible.

    A group larger than the remaining need is postponed; postponed groups are used last, the smallest first.
    """
    chosen, large, taken = array("I"), array("I"), 0
    for number in order:
        if taken == wanted:
            break
        if taken + sizes[number] <= wanted:
            chosen.append(number)
            taken += sizes[number]
        else:
            large.append(number)
    for number in sorted(large, key=sizes.__getitem__) if taken < wanted else ():
        if taken < wanted:
            chosen.append(number)
            taken += sizes[number]
    return chosen
