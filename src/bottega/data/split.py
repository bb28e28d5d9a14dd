"""Which rows are held out for validation, with identical prompts on one side."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bottega.errors import DataError
from bottega.records import Record, Text

Side = Literal["train", "validation"]


class Split:
    """Where each record of a stream goes, decided in one reading of it that keeps eight bytes a record.

    At least `fraction` of the rows are held out. Documents too few to hold some out (a book, a handful of files) are
    cut instead: the end of each is held out, because blocks drawn from the middle would leak their neighbours.
    """

    def __init__(self, records: Iterable[Record], fraction: float, seed: int) -> None:
        self.fraction = fraction
        keys, documents = array("Q"), True
        for record in records:
            keys.append(_key(record.prompt_key))
            documents = documents and isinstance(record, Text) and not record.answer
        cut = documents and len(keys) < 2 / fraction
        self.held = None if cut else _held_out(np.array(keys, np.uint64), fraction, seed)

    def sides(self, number: int, record: Record) -> Iterator[tuple[Side, Record]]:
        """The sides a record of the stream stands on, by its number: one, or both with a part each."""
        if self.held is not None:
            yield "validation" if self.held[number] else "train", record
            return
        assert isinstance(record, Text)
        cut = int(len(record.text) * (1 - self.fraction))
        yield "train", replace(record, text=record.text[:cut])
        yield "validation", replace(record, text=record.text[cut:])


def _key(prompt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _held_out(keys: NDArray[np.uint64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """[rows] which rows validate; rows with one key stay together.

    A group too large for what is still wanted waits: it is taken, the smallest first, only when nothing else is left.
    """
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sizes: list[int] = counts.tolist()
    order = list(range(len(sizes)))
    random.Random(f"{seed} split").shuffle(order)
    # Less a hair, because 0.1 × 70 is a little above 7 in binary.
    wanted, taken = math.ceil(fraction * len(keys) - 1e-9), 0
    chosen, large = np.zeros(len(sizes), np.bool_), []
    for number in order:
        if taken + sizes[number] <= wanted:
            chosen[number], taken = True, taken + sizes[number]
        else:
            large.append(number)
    for number in sorted(large, key=sizes.__getitem__):
        if taken < wanted:
            chosen[number], taken = True, taken + sizes[number]
    if not 0 < taken < len(keys):
        raise DataError(
            f"{len(keys)} rows with {len(sizes)} different prompts cannot be split by {fraction}",
            where="data.validation",
            fix="give a validation file, or a larger fraction",
        )
    return chosen[group]
