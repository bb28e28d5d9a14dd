"""What training and evaluation of text embeddings share: pooled rows, and which candidates match an anchor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import RecipeError
from bottega.objectives import Pooling

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


class Ranking(NamedTuple):
    """Queries that rank candidates, one of which is the positive.

    queries     [A] indices of rows
    candidates  [O] indices of rows
    positive    [A] position in `candidates` of each query's positive
    """

    queries: NDArray[np.int64]
    candidates: NDArray[np.int64]
    positive: NDArray[np.int64]


def split_candidates(columns: Mapping[str, np.ndarray]) -> Ranking:
    """Anchors as queries, and as candidates the positives and negatives of all rows, from columns [R]."""
    candidates = np.flatnonzero((columns["pair"] > 0) & (columns["compared"] == 0))
    # An example has one anchor and one positive, and both stand in the order of the examples.
    return Ranking(np.flatnonzero(columns["anchor"]), candidates, np.flatnonzero(columns["positive"][candidates]))


def positive_mask(
    columns: Mapping[str, np.ndarray], queries: np.ndarray, candidates: np.ndarray, positive: np.ndarray
) -> np.ndarray:
    """[A, O] whether a candidate is known to belong to a query; its own positive included."""
    text = columns["text"]
    known: np.ndarray = text[candidates[positive]][:, None] == text[candidates][None]
    for name in ("text", "group", "anchor_text"):
        known |= columns[name][queries][:, None] == columns[name][candidates][None]
    return known


def pooled_row(codec: Codec, where: str, text: str, pooling: Pooling) -> Row:
    """The row of a text, read at the tokens whose hidden states make its embedding."""
    row = codec.encode_every_token(where, text)
    if pooling == "mean":
        return row
    if pooling == "first" and not codec.both_ways:
        raise RecipeError(
            "the first token of this model attends to nothing but itself",
            where="objective.pooling",
            fix="use last or mean: the model reads from left to right",
        )
    positions: Sequence[int] = [0] if pooling == "first" else [len(row.tokens) - 1]
    return replace(row, at=row.at[positions], label=row.label[positions], weight=row.weight[positions])
