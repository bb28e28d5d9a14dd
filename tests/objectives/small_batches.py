"""Batches of a few rows with scores made by hand, and what an objective makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from worlds import tokenizer

from bottega.batch import Batch, Example, MetricMeans, Row, count_units
from bottega.objectives import Objective
from bottega.packing import pack
from bottega.records import Preference, Record
from bottega.tokenization.codec import Codec

# The rejected answer of the second pair is the longer one, and both pairs have one prompt.
PAIRS = [
    Preference("line 1", "the cat", " sat on the mat", " ran"),
    Preference("line 2", "the cat", " was happy", " and then it was very sad"),
]


def small_codec(**changes: Any) -> Codec:
    return Codec(tokenizer(), **{"max_length": 100, "too_long": "error", **changes})


def encode(objective: Objective, records: Sequence[Record], codec: Codec | None = None) -> list[Example]:
    codec = codec or small_codec()
    return [Example(record.where, rows) for record in records for rows in objective.rows(record, codec)]


def batch_of(objective: Objective, records: Sequence[Record], codec: Codec | None = None) -> Batch:
    return pack(encode(objective, records, codec))


def token_values(batch: Batch, row_sums: Sequence[float]) -> torch.Tensor:
    """[N] values whose sums over the predictions of each row are these [R], equal within a row."""
    sums = torch.tensor(row_sums, dtype=torch.float64)
    return (sums / batch.sum_rows(torch.ones(len(batch.at), dtype=torch.float64)))[batch.row]


def loss_and_metrics(objective: Objective, batch: Batch, **scores: torch.Tensor) -> tuple[float, Mapping[str, float]]:
    """The loss of an update of this batch, and the means of its metrics."""
    loss = objective.loss(scores, batch)
    means = MetricMeans()
    means.add(loss.metrics, batch)
    return float(loss.total(count_units([batch]))), means.values()


def label_row(label: float, **columns: Any) -> Row:
    """A row of one token with one prediction."""
    one = np.ones(1, np.float32)
    made = {name: np.asarray(value, np.float32) for name, value in columns.items()}
    return Row(np.array([5]), np.array([0]), np.array([label]), one, True, made)
