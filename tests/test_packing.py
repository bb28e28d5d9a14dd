"""The flat prefix tree, against the definition: a token sees exactly its own row's tokens before it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bottega.batch import Example, Row
from bottega.packing import pack, put_before, split_into_micro_batches


def row(tokens: list[int], both_ways: bool = False) -> Row:
    ids = np.array(tokens)
    return Row(ids, np.arange(len(ids)), ids + 1, np.ones(len(ids), np.float32), both_ways)


def random_examples(seed: int) -> list[Example]:
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
    examples = random_examples(seed)
    batch = pack(examples, share=seed % 5 > 0, min_shared=1 + seed % 4)
    first, last, index = batch.first.numpy(), batch.last.numpy(), np.arange(len(batch.tokens))
    mask = (first[None] <= index[:, None]) & (index[:, None] < last[None])
    rows = [row for example in examples for row in example.rows]
    for number, expected in enumerate(rows):
        positions = batch.at[batch.row == number].numpy()
        assert (batch.tokens[positions].numpy() == expected.tokens).all()
        assert (batch.position[positions].numpy() == np.arange(len(positions))).all()
        for depth, position in enumerate(positions):
            visible = positions if expected.both_ways else positions[: depth + 1]
            assert set(np.flatnonzero(mask[position])) == set(visible)
    assert (batch.nodes.parent < np.arange(len(batch.nodes))).all()
    assert batch.tokens_real == sum(example.tokens for example in examples)


@pytest.mark.parametrize("seed", range(100))
def test_micro_batches_stay_within_their_token_limit(seed: int) -> None:
    examples = random_examples(seed)
    parts = split_into_micro_batches(examples, 20, min_shared=1 + seed % 4)
    assert sorted(example.id for part in parts for example in part) == sorted(example.id for example in examples)
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


def test_tokens_after_the_last_prediction_are_not_computed() -> None:
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


def test_unshared_rows_keep_all_their_tokens() -> None:
    """Doge and ProphetNet compute a row differently if it is a token shorter, though no token attends to the last."""
    tokens = np.arange(5)
    row = Row(tokens, np.array([2, 3]), tokens[3:], np.ones(2, np.float32))
    assert pack([Example("", (row,))], share=False).tokens.tolist() == [0, 1, 2, 3, 4]
    assert pack([Example("", (row,))]).tokens.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_tokens_before_every_row_are_its_beginning(seed: int, shared: bool) -> None:
    causal = [Example(one.id, tuple(row(each.tokens.tolist()) for each in one.rows)) for one in random_examples(seed)]
    batch = pack(causal, share=shared, min_shared=1)
    found = put_before(batch, [7, 8], shared=shared)
    first, last, index = found.first.numpy(), found.last.numpy(), np.arange(len(found.tokens))
    mask = (first[None] <= index[:, None]) & (index[:, None] < last[None])
    rows = [each for example in causal for each in example.rows]
    for number, expected in enumerate(rows):
        for place in found.at[found.row == number].tolist():
            visible = np.flatnonzero(mask[place])
            wanted = [7, 8, *expected.tokens[: int(found.position[place]) - 1]]
            assert found.tokens[visible].tolist() == wanted
            assert found.position[visible].tolist() == list(range(len(wanted)))
            node = int(np.searchsorted(found.nodes.start, place, side="right")) - 1
            assert set(visible) <= set(found.nodes.path(node))
            assert found.tokens[found.nodes.path(node)].tolist()[:2] == [7, 8]
    new = len(found.tokens) - len(batch.tokens)
    assert new == (2 if shared else 2 * int((batch.nodes.parent < 0).sum()))
    assert put_before(batch, [], shared=shared) is batch
