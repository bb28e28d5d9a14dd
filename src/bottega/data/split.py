"""Which rows are held out for validation, with identical prompts on one side."""

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


class Split:
    """Where each record of a stream goes, decided in one reading of it that keeps sixteen bytes a record.

    At least `fraction` of the rows are held out. Documents too few to hold some out (a book, a handful of files) are
    cut instead: the end of each is held out, because blocks drawn from the middle would leak their neighbours.
    """

    def __init__(self, records: Iterable[Record], fraction: float, seed: int, *, stratified: bool = False) -> None:
        """stratified  hold out the same fraction of each label, and never all of one"""
        self.fraction = fraction
        keys, labels, documents = array("Q"), array("l"), True
        numbers = dict[str, int]()
        for record in records:
            keys.append(_hash_prompt(record.prompt_key))
            labels.append(numbers.setdefault(_label_of(record), len(numbers)) if stratified else 0)
            documents = documents and isinstance(record, Text) and not record.answer
        cut = documents and len(keys) < 2 / fraction
        self.held = None if cut else _select_validation(np.array(keys, np.uint64), np.array(labels), fraction, seed)

    def sides(self, number: int, record: Record) -> Iterator[tuple[Side, Record]]:
        """The sides a record of the stream stands on, by its number: one, or both with a part each."""
        if self.held is not None:
            yield "validation" if self.held[number] else "train", record
            return
        assert isinstance(record, Text)
        cut = int(len(record.text) * (1 - self.fraction))
        yield "train", replace(record, text=record.text[:cut])
        yield "validation", replace(record, text=record.text[cut:])


def _hash_prompt(prompt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _label_of(record: Record) -> str:
    return record.label if isinstance(record, Labelled) else ""


def _select_validation(
    keys: NDArray[np.uint64], labels: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """[rows] which rows validate; rows with one key stay together, and count for the label of the first of them."""
    _, first, group, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    sizes: list[int] = counts.tolist()
    order = list(range(len(sizes)))
    random.Random(f"{seed} split").shuffle(order)
    strata = defaultdict[int, list[int]](list)
    for number, label in zip(order, labels[first[order]].tolist(), strict=True):
        strata[label].append(number)
    if len(strata) > 1:
        chosen = [number for stratum in strata.values() for number in _select_from_label(stratum, sizes, fraction)]
    else:
        # Less a hair, because 0.1 × 70 is a little above 7 in binary.
        chosen = _select_groups(order, sizes, math.ceil(fraction * len(keys) - 1e-9))
    if not 0 < sum(sizes[number] for number in chosen) < len(keys):
        raise DataError(
            f"{len(keys)} rows with {len(sizes)} different prompts cannot be split by {fraction}",
            where="data.validation",
            fix="give a validation file, or a larger fraction",
        )
    return np.asarray(np.isin(group, chosen))


def _select_from_label(stratum: Sequence[int], sizes: Sequence[int], fraction: float) -> list[int]:
    """The groups of a label to hold out: the fraction, rounded, and at least one where that leaves another."""
    wanted = max(1, round(fraction * sum(sizes[number] for number in stratum)))
    return _select_groups(stratum, sizes, wanted)[: len(stratum) - 1]


def _select_groups(order: Sequence[int], sizes: Sequence[int], wanted: int) -> list[int]:
    """Groups that hold as many rows as wanted, or the fewest more.

    A group too large for what is still wanted waits: it is taken, the smallest first, only when nothing else is left.
    """
    chosen, large, taken = list[int](), list[int](), 0
    for number in order:
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
