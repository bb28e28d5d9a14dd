"""Train and validation rows, with identical prompts on one side."""

from __future__ import annotations

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
    wanted, held = round(fraction * len(records)), set[int]()
    for key in keys:
        if len(held) >= wanted:
            break
        held.update(groups[key])
    if not held or len(held) == len(records):
        raise DataError(
            f"{len(records)} rows with {len(groups)} different prompts cannot be split by {fraction}",
            where="data.validation",
            fix="give a validation file, or a larger fraction",
        )
    train = [record for index, record in enumerate(records) if index not in held]
    return train, [records[index] for index in sorted(held)]


def _tails(records: Sequence[Record], fraction: float) -> tuple[list[Record], list[Record]]:
    train: list[Record] = []
    validation: list[Record] = []
    for record in records:
        assert isinstance(record, Text)
        cut = int(len(record.text) * (1 - fraction))
        train.append(replace(record, text=record.text[:cut]))
        validation.append(replace(record, text=record.text[cut:]))
    return train, validation
