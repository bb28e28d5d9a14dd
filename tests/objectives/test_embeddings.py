"""Pooled rows of texts, the candidates that an anchor ranks, and those that are known to belong to it."""

from __future__ import annotations

import numpy as np
import pytest
from small_batches import encode, small_codec

from bottega.errors import RecipeError
from bottega.objectives._embeddings import pooled_row, positive_mask, split_candidates
from bottega.objectives.contrastive import Contrastive
from bottega.records import Compared, Paired, Record


def columns_of(records: list[Record]) -> dict[str, np.ndarray]:
    rows = [row for example in encode(Contrastive(), records, small_codec(both_ways=True)) for row in example.rows]
    return {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}


def mask_of(records: list[Record]) -> list[list[bool]]:
    columns = columns_of(records)
    mask: list[list[bool]] = positive_mask(columns, *split_candidates(columns)).tolist()
    return mask


@pytest.mark.parametrize(("pooling", "both_ways"), [("mean", True), ("mean", False), ("first", True), ("last", False)])
def test_a_row_is_read_where_its_embedding_is_made(pooling: str, both_ways: bool) -> None:
    codec = small_codec(both_ways=both_ways)
    row = pooled_row(codec, "line 1", "the cat sat", pooling)  # type: ignore[arg-type]
    last = len(row.tokens) - 1
    assert last > 0
    assert row.at.tolist() == {"mean": list(range(last + 1)), "first": [0], "last": [last]}[pooling]
    assert len(row.label) == len(row.weight) == len(row.at)


def test_the_first_token_of_a_decoder_makes_no_embedding() -> None:
    with pytest.raises(RecipeError, match="attends to nothing but itself") as caught:
        pooled_row(small_codec(), "line 1", "the cat sat", "first")
    assert caught.value.where == "objective.pooling"


def test_anchors_rank_the_positives_and_negatives_of_all_rows() -> None:
    columns = columns_of([Paired("1", "a", "b", ("c", "d")), Compared("2", "one", "two", 0.5), Paired("3", "e", "f")])
    ranking = split_candidates(columns)
    # Rows: a b c d, one two, e f. What is scored is no candidate.
    assert ranking.queries.tolist() == [0, 6]
    assert ranking.candidates.tolist() == [1, 2, 3, 7]
    assert ranking.positive.tolist() == [0, 3]


def test_only_its_own_positive_belongs_to_an_anchor_of_which_nothing_else_is_known() -> None:
    assert mask_of([Paired("1", "a", "b", ("c",)), Paired("2", "d", "e")]) == [
        [True, False, False],
        [False, False, True],
    ]


@pytest.mark.parametrize(
    "records",
    [
        [Paired("1", "a cat", "a dog"), Paired("2", "one red", "a dog")],
        [Paired("1", "a cat", "a dog", label="x"), Paired("2", "one red", "two blue", label="x")],
        [Paired("1", "a cat", "a dog"), Paired("2", "a cat", "two blue")],
        [Paired("1", "a cat", "a dog"), Paired("2", "a dog", "a cat")],
    ],
    ids=["the same positive", "the same label", "the same anchor", "each other's positive"],
)
def test_what_is_known_to_belong_to_an_anchor(records: list[Record]) -> None:
    assert mask_of(records) == [[True, True], [True, True]]
