"""Every attention back end against the dense definition, values and gradients."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bottega.batch import Batch, Example, Row
from bottega.models import attention
from bottega.models.attention import BlockLayout, DenseLayout, FlexLayout, Style, padded, rounded
from bottega.packing import pack


def batch(draw: random.Random) -> Batch:
    """Rows with prefixes at every depth, some bidirectional."""

    def row() -> Row:
        ids = np.array([draw.randrange(3) for _ in range(draw.randint(1, 40))])
        return Row(ids, np.arange(len(ids)), ids, np.ones(len(ids), np.float32), draw.random() < 0.3)

    examples = [Example(str(i), tuple(row() for _ in range(draw.randint(1, 3)))) for i in range(draw.randint(1, 12))]
    return pack(examples, share=draw.random() < 0.8, share_at_least=draw.randint(1, 3))


def style(draw: random.Random, heads: int) -> Style:
    sinks = torch.randn(heads, dtype=torch.float64) if draw.random() < 0.3 else None
    return Style(0.35, draw.choice([None, 3]), draw.choice([None, 2.0]), 0.0, sinks)


def inputs(made: Batch, heads: int, groups: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    sizes = ((heads, 8), (groups, 8), (groups, 6))
    length = len(made.tokens)
    return [torch.randn(1, n, length, d, dtype=dtype, requires_grad=True) for n, d in sizes]


@pytest.mark.parametrize("seed", range(60))
def test_blocks_are_the_dense_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    monkeypatch.setattr(attention, "SMALL", draw.choice([0, 50, 4096]))
    monkeypatch.setattr(attention, "LARGE", draw.choice([10, 1 << 20]))
    made, (heads, groups) = batch(draw), draw.choice([(4, 2), (4, 4), (6, 1)])
    wanted, tensors = style(draw, heads), inputs(made, heads, groups)
    if attention.LARGE == 10:
        tensors[2] = torch.randn(1, groups, len(made.tokens), 8, dtype=torch.float64, requires_grad=True)
    dense = DenseLayout(made).attend(*tensors, wanted)
    weight = torch.randn_like(dense)
    slopes = torch.autograd.grad((dense * weight).sum(), tensors)
    for whole in (made, padded(made)):
        extra = (0, 0, 0, len(whole.tokens) - len(made.tokens))
        block = BlockLayout(whole).attend(*(F.pad(tensor, extra) for tensor in tensors), wanted)[:, : len(made.tokens)]
        torch.testing.assert_close(block, dense, rtol=0, atol=1e-12)
        for one, other in zip(torch.autograd.grad((block * weight).sum(), tensors), slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_few_lengths_remain() -> None:
    assert [rounded(length) for length in (0, 1, 8, 9, 250, 1000, 1025, 2047, 2049)] == [
        0, 8, 8, 16, 256, 1008, 1056, 2048, 2112,
    ]  # fmt: skip
    assert all(length <= rounded(length) <= max(length + 8, 1.032 * length) for length in range(1, 5000))
    assert len({rounded(length) for length in range(1025, 2049)}) == 32


def test_padding_belongs_to_no_row() -> None:
    made = batch(random.Random(1))
    whole = padded(made)
    length = len(made.tokens)
    assert len(whole.tokens) == rounded(length) > length
    mask = DenseLayout(whole).mask(None)
    assert torch.equal(mask[:length, :length], DenseLayout(made).mask(None))
    assert not mask[:length, length:].any()
    assert torch.equal(mask[length:, length:], torch.eye(len(whole.tokens) - length, dtype=torch.bool))
    assert not mask[length:, :length].any()


@pytest.mark.parametrize("seed", range(6))
def test_flex_is_the_dense_reference(seed: int) -> None:
    """Forward only: FlexAttention has no backward on a CPU."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    made = padded(batch(draw), FlexLayout.BLOCK)
    wanted = Style(0.35, draw.choice([None, 3]), draw.choice([None, 2.0]))
    with torch.no_grad():
        query, key, _ = (tensor.detach() for tensor in inputs(made, 4, 2, torch.float32))
        flex = FlexLayout(made).attend(query, key, key, wanted)
        dense = DenseLayout(made).attend(query, key, key, wanted)
    torch.testing.assert_close(flex, dense, rtol=0, atol=1e-5)


def test_equal_rows_are_computed_without_gathering() -> None:
    ids = np.arange(16)
    rows = [Example(str(i), (Row(ids + i, ids, ids, np.ones(16, np.float32)),)) for i in range(4)]
    (group,) = BlockLayout(pack(rows)).groups
    assert group.whole
    assert group.query.shape == (4, 16)


def test_a_model_that_drops_keywords_is_found_out() -> None:
    with pytest.raises(TypeError, match="does not pass keywords"):
        attention.attention(torch.nn.Identity(), torch.ones(1), torch.ones(1), torch.ones(1), None)
