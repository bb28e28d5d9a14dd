"""Train and validation rows, with identical prompts on one side."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from bottega.errors import DataError
from bottega.records import Record, Text


def split(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(train, validation): at least `fraction` of the rows held out, in the order of the file.

    Rows with the same prompt stay together. Documents too few to hold some out (a book, a handful of files) are
    cut instead: the end of each is held out, because blocks drawn from the middle would leak their neighbours.
    """
    if len(records) < 2 / fraction and all(isinstance(record, Text) and not record.answer for record in records):
        return _tails(records, fraction)
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(record.prompt_key, []).append(index)
    keys = sorted(groups)
    random.Random(f"{seed} split").shuffle(keys)
    # Less a hair, because 0.1 × 70 is a little above 7 in binary.
    wanted, held = math.ceil(fraction * len(records) - 1e-9), set[int]()
    # A group too large for what is still wanted waits: it is taken, the smallest first, only when nothing else is left.
    large = [key for key in keys if not _add(held, groups[key], wanted)]
    for key in sorted(large, key=lambda key: len(groups[key])):
        if len(held) < wanted:
            held.update(groups[key])
    if not held or len(held) == len(records):
        raise DataError(
            f"{len(records)} rows with {len(groups)} different prompts cannot be split by {fraction}",
            where="data.validation",
            fix="give a validation file, or a larger fraction",
        )
    train = [record for index, record in enumerate(records) if index not in held]
    return train, [records[index] for index in sorted(held)]


def _add(held: set[int], group: Sequence[int], wanted: int) -> bool:
    """Add a group that does not lead beyond `wanted`."""
    if len(held) + len(group) > wanted:
        return False
    held.update(group)
    return True


def _tails(records: Sequence[Record], fraction: float) -> tuple[list[Record], list[Record]]:
    train: list[Record] = []
    validation: list[Record] = []
    for record in records:
        assert isinstance(record, Text)
        cut = int(len(record.text) * (1 - fraction))
        train.append(replace(record, text=record.text[:cut]))
        validation.append(replace(record, text=record.text[cut:]))
    return train, validation
