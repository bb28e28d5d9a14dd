"""The flat prefix tree, against the definition: a token sees exactly its own row's tokens before it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bottega.batch import Example, Row
from bottega.packing import pack, split_into_micro_batches


def row(tokens: list[int], both_ways: bool = False) -> Row:
    ids = np.array(tokens)
    return Row(ids, np.arange(len(ids)), ids + 1, np.ones(len(ids), np.float32), both_ways)


def examples(seed: int) -> list[Example]:
    """Rows over three tokens, so that they share prefixes at every depth."""
    draw = random.Random(seed)
    return [
        Example(
            str(index),
            tuple(
                row([draw.randrange(3) for _ in range(draw.randint(1, 14))], draw.random() < 0.1)
                for _ in range(draw.randint(1, 3))
            ),
        )
        for index in range(draw.randint(1, 8))
    ]


@pytest.mark.parametrize("seed", range(150))
def test_every_token_sees_its_own_row_and_nothing_else(seed: int) -> None:
    made = examples(seed)
    batch = pack(made, share=seed % 5 > 0, min_shared=1 + seed % 4)
    first, last, index = batch.first.numpy(), batch.last.numpy(), np.arange(len(batch.tokens))
    sees = (first[None] <= index[:, None]) & (index[:, None] < last[None])
    rows = [row for example in made for row in example.rows]
    for number, wanted in enumerate(rows):
        places = batch.at[batch.row == number].numpy()
        assert (batch.tokens[places].numpy() == wanted.tokens).all()
        assert (batch.position[places].numpy() == np.arange(len(places))).all()
        for depth, place in enumerate(places):
            visible = places if wanted.both_ways else places[: depth + 1]
            assert set(np.flatnonzero(sees[place])) == set(visible)
    assert (batch.nodes.parent < np.arange(len(batch.nodes))).all()
    assert batch.tokens_real == sum(example.tokens for example in made)


@pytest.mark.parametrize("seed", range(100))
def test_an_update_is_divided_within_its_bound(seed: int) -> None:
    made = examples(seed)
    parts = split_into_micro_batches(made, 20, min_shared=1 + seed % 4)
    assert sorted(example.id for part in parts for example in part) == sorted(example.id for example in made)
    for part in parts:
        assert len(part) == 1 or len(pack(part, min_shared=1 + seed % 4).tokens) <= 20


def test_a_shared_prompt_is_laid_out_once() -> None:
    prompt = list(range(10))
    batch = pack([Example("pair", (row([*prompt, 20, 21]), row([*prompt, 30, 31, 32])))])
    assert len(batch.tokens) == 10 + 2 + 3
    assert batch.first.tolist() == list(range(15))
    assert batch.last.tolist() == [15] * 10 + [12] * 2 + [15] * 3
    assert batch.position.tolist() == [*range(12), 10, 11, 12]


def test_a_short_prefix_is_repeated() -> None:
    pair = Example("pair", (row([1, 2, 3, 9]), row([1, 2, 3, 8])))
    assert len(pack([pair]).tokens) == 8
    assert len(pack([pair], min_shared=3).tokens) == 5


def test_a_tail_that_predicts_nothing_is_not_laid_out() -> None:
    ids = np.arange(12)
    answer = Row(ids, np.array([3, 4]), ids[4:6], np.ones(2, np.float32))
    batch = pack([Example("row", (answer,))])
    assert batch.tokens.tolist() == [0, 1, 2, 3, 4]
    assert batch.tokens_real == 12


def test_equal_rows_are_computed_once() -> None:
    twice = [Example(str(index), (row(list(range(9))),)) for index in range(2)]
    batch = pack(twice)
    assert len(batch.tokens) == 9
    assert len(batch.at) == 18
    assert batch.sum_rows(batch.weight).tolist() == [9, 9]


def test_counts() -> None:
    made = [Example("a", (row([1, 2]), row([3]))), Example("b", (row([4, 5, 6]),))]
    batch = pack(made)
    assert [batch.count(unit) for unit in ("token", "row", "example")] == [6, 3, 2]
    assert batch.sum_examples(batch.sum_rows(batch.weight)).tolist() == [3, 3]


def test_a_row_by_itself_is_whole() -> None:
    """Doge and ProphetNet make something else of a row that is a token shorter, though they do not look at the last."""
    tokens = np.arange(5)
    row = Row(tokens, np.array([2, 3]), tokens[3:], np.ones(2, np.float32))
    assert pack([Example("", (row,))], share=False).tokens.tolist() == [0, 1, 2, 3, 4]
    assert pack([Example("", (row,))]).tokens.tolist() == [0, 1, 2, 3]
