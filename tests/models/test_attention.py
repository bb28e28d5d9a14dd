"""Every attention back end against the dense definition, values and gradients; kv_cache has a file of its own."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bottega.batch import Batch, Example, Row
from bottega.models import attention
from bottega.models.attention import blocks, flash
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.cuda import CudaLayout
from bottega.models.attention.dense import DenseLayout
from bottega.models.attention.flash import FlashLayout
from bottega.models.attention.flex import FlexLayout
from bottega.models.attention.mask import AttentionOptions
from bottega.packing import FLEX_BLOCK, pack, pad_tree, round_length


def batch(draw: random.Random) -> Batch:
    """Rows with prefixes at every depth, some bidirectional."""

    def row() -> Row:
        ids = np.array([draw.randrange(3) for _ in range(draw.randint(1, 40))])
        return Row(ids, np.arange(len(ids)), ids, np.ones(len(ids), np.float32), draw.random() < 0.3)

    examples = [Example(str(i), tuple(row() for _ in range(draw.randint(1, 3)))) for i in range(draw.randint(1, 12))]
    return pack(examples, share=draw.random() < 0.8, min_shared=draw.randint(1, 3))


def style(draw: random.Random, heads: int) -> AttentionOptions:
    sinks = torch.randn(heads, dtype=torch.float64) if draw.random() < 0.3 else None
    return AttentionOptions(0.35, draw.choice([None, 3]), draw.choice([None, 2.0]), 0.0, sinks)


def inputs(made: Batch, heads: int, groups: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    sizes = ((heads, 8), (groups, 8), (groups, 6))
    length = len(made.tokens)
    return [torch.randn(1, n, length, d, dtype=dtype, requires_grad=True) for n, d in sizes]


@pytest.mark.parametrize("seed", range(60))
def test_blocks_equal_the_dense_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    monkeypatch.setattr(blocks, "MAX_PADDING_PAIRS", draw.choice([0, 50, 4096]))
    monkeypatch.setattr(blocks, "MAX_KEPT_PAIRS", draw.choice([10, 1 << 20]))
    monkeypatch.setattr(blocks, "QUERY_BLOCK", draw.choice([1, 16, 128]))
    made, (heads, groups) = batch(draw), draw.choice([(4, 2), (4, 4), (6, 1)])
    wanted, tensors = style(draw, heads), inputs(made, heads, groups)
    dense = DenseLayout(made).attend(*tensors, wanted)
    weight = torch.randn_like(dense)
    slopes = torch.autograd.grad((dense * weight).sum(), tensors)
    for whole in (made, pad_tree(made)):
        extra = (0, 0, 0, len(whole.tokens) - len(made.tokens))
        block = BlockLayout(whole).attend(*(F.pad(tensor, extra) for tensor in tensors), wanted)[:, : len(made.tokens)]
        torch.testing.assert_close(block, dense, rtol=0, atol=1e-12)
        for one, other in zip(torch.autograd.grad((block * weight).sum(), tensors), slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_lengths_are_rounded_up_to_a_few() -> None:
    assert [round_length(length) for length in (0, 1, 8, 9, 250, 1000, 1025, 2047, 2049)] == [
        0, 8, 8, 16, 256, 1008, 1056, 2048, 2112,
    ]  # fmt: skip
    assert all(length <= round_length(length) <= max(length + 8, 1.032 * length) for length in range(1, 5000))
    assert len({round_length(length) for length in range(1025, 2049)}) == 32


def test_padding_belongs_to_no_row() -> None:
    made = batch(random.Random(1))
    whole = pad_tree(made)
    length = len(made.tokens)
    assert len(whole.tokens) == round_length(length) > length
    mask = DenseLayout(whole).mask(None)
    assert torch.equal(mask[:length, :length], DenseLayout(made).mask(None))
    assert not mask[:length, length:].any()
    assert torch.equal(mask[length:, length:], torch.eye(len(whole.tokens) - length, dtype=torch.bool))
    assert not mask[length:, :length].any()


@pytest.mark.parametrize("seed", range(12))
def test_flex_equals_the_dense_reference(seed: int) -> None:
    """Forward only: FlexAttention has no backward on a CPU."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    made = pad_tree(batch(draw), FLEX_BLOCK)
    sinks = torch.randn(4) if seed % 3 == 0 else None
    wanted = AttentionOptions(0.35, draw.choice([None, 3]), draw.choice([None, 2.0]), sinks=sinks)
    with torch.no_grad():
        tensors = [tensor.detach() for tensor in inputs(made, 4, 2, torch.float32)]
        flex = FlexLayout(made).attend(*tensors, wanted)
        dense = DenseLayout(made).attend(*tensors, wanted)
    torch.testing.assert_close(flex, dense, rtol=0, atol=1e-5)


def plain(query, key, value, sequences, options, causal):
    """What FlashAttention's kernel computes, one sequence at a time; the queries are the last of the keys."""
    out = []
    for (a, b), (c, d) in zip(
        pairwise(sequences.query_starts.tolist()), pairwise(sequences.key_starts.tolist()), strict=True
    ):
        k, v = (x[c:d].repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[a:b], k) * options.scaling
        apart = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        hidden = (apart < 0) & causal
        if options.window is not None:
            hidden = hidden | (apart.abs() >= options.window)
        out.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v))
    return torch.cat(out)


def plain_back(g, query, key, value, kept, *given):
    """The gradients of the kernel, by autograd."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (query, key, value)]
        return torch.autograd.grad(plain(*leaves, *given), leaves, g)


@pytest.mark.parametrize("seed", range(8))
def test_flash_equals_the_dense_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout and the gradients around the kernel, which itself is replaced: it does not run on a CPU."""
    monkeypatch.setattr(flash, "_flash_forward", lambda *given: (plain(*given),))
    monkeypatch.setattr(flash, "_flash_backward", plain_back)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    both = seed % 2 > 0
    rows = [np.array([draw.randrange(2) for _ in range(draw.randint(1, 20))]) for _ in range(9)]
    made = [Row(ids, np.arange(len(ids)), ids, np.ones(len(ids), np.float32), both) for ids in rows]
    packed = pack([Example(str(number), (row,)) for number, row in enumerate(made)], min_shared=2)
    whole, real = pad_tree(packed), len(packed.tokens)
    wanted, tensors = AttentionOptions(0.35, draw.choice([None, 3])), inputs(whole, 4, 2)
    layout = FlashLayout(whole)
    assert layout.causal is not both
    assert not layout.supports(tensors[0], tensors[2], wanted), "its kernels are for half precision"
    weight = torch.randn(1, real, 4, 6, dtype=torch.float64)
    found = []
    for one in (layout, DenseLayout(whole)):
        out = one.attend(*tensors, wanted)[:, :real]
        found.append([out, *torch.autograd.grad((out * weight).sum(), tensors)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_on_cuda_the_fastest_back_end_that_supports_a_layer_is_taken() -> None:
    packed = batch(random.Random(3))
    made, real = pad_tree(packed, FLEX_BLOCK), len(packed.tokens)
    tensors = [tensor.detach() for tensor in inputs(made, 4, 2, torch.float32)]
    for options in (AttentionOptions(0.35, 3), AttentionOptions(0.35, relative_bias=torch.randn(9, 4))):
        layout = CudaLayout(made)
        with torch.no_grad():
            out = layout.attend(*tensors, options)
            dense = DenseLayout(made).attend(*tensors, options)
            torch.testing.assert_close(out[:, :real], dense[:, :real], rtol=0, atol=1e-5)
        # FlexAttention knows no bias from a table: blocks are laid out then, and only then.
        assert ("blocks" in vars(layout)) is (options.relative_bias is not None)


def test_flash_leaves_mixed_rows_to_others() -> None:
    ids = np.arange(5)
    rows = [Row(ids, ids, ids, np.ones(5, np.float32), both) for both in (True, False)]
    made = pack([Example(str(number), (row,)) for number, row in enumerate(rows)])
    half = torch.zeros(1, 2, 10, 16, dtype=torch.bfloat16)
    assert FlashLayout(made).causal is None
    assert not FlashLayout(made).supports(half, half, AttentionOptions(1.0))


@pytest.mark.parametrize("window", [None, 3, 100, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_a_block_mask_covers_every_visible_pair(seed: int, window: int | None) -> None:
    """Full blocks are fully visible, omitted blocks are empty, and few blocks of long rows are computed in vain."""
    draw = random.Random(seed)
    rows = [np.arange(draw.randint(1, 900)) + draw.randrange(2) for _ in range(9)]
    both = draw.random() < 0.5
    made = [Row(ids, ids[-1:] - ids[0], ids[:1], np.ones(1, np.float32), both) for ids in rows]
    whole = pad_tree(pack([Example(str(number), (row,)) for number, row in enumerate(made)]), FLEX_BLOCK)
    seen = DenseLayout(whole).mask(window).unflatten(0, (-1, FLEX_BLOCK)).unflatten(2, (-1, FLEX_BLOCK))
    found = FlexLayout(whole).mask(window)
    size = len(whole.tokens) // FLEX_BLOCK
    some, every = torch.zeros(size, size, dtype=torch.bool), torch.zeros(size, size, dtype=torch.bool)
    for query in range(size):
        some[query, found.kv_indices[0, 0, query, : found.kv_num_blocks[0, 0, query]].long()] = True
        every[query, found.full_kv_indices[0, 0, query, : found.full_kv_num_blocks[0, 0, query]].long()] = True
    assert torch.equal(every, seen.all(3).all(1))
    assert not (seen.any(3).any(1) & ~some & ~every).any()
    # Where rows meet, positions of a block reach far, and a window cuts less off.
    assert int((some | every).sum()) <= (1.2 if window is None else 2) * int(seen.any(3).any(1).sum())


@pytest.mark.parametrize("seed", range(6))
def test_gradients_use_the_dropout_masks_of_the_forward(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients against those of autograd, with the same masks; sinks leave the backward to autograd."""
    draw = random.Random(seed)
    monkeypatch.setattr(blocks, "MAX_KEPT_PAIRS", draw.choice([10, 1 << 20]))
    monkeypatch.setattr(blocks, "QUERY_BLOCK", draw.choice([16, 128]))
    made, found = batch(draw), []
    tensors = inputs(made, 4, 2)
    for sinks in (None, torch.full((4,), -torch.inf, dtype=torch.float64)):
        torch.manual_seed(seed)
        out = BlockLayout(made).attend(*tensors, AttentionOptions(0.35, None, None, 0.4, sinks))
        found.append([out, *torch.autograd.grad(out.pow(2).sum(), tensors)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_only_keys_within_the_window_are_computed() -> None:
    ids = np.arange(512)
    made = pack([Example("1", (Row(ids, ids, ids, np.ones(512, np.float32)),))])
    (views,) = BlockLayout(made).views(32, torch.float32)
    assert [(view.begin, view.end) for view in views] == [(0, 128), (96, 256), (224, 384), (352, 512)]
    (views,) = BlockLayout(made).views(None, torch.float32)
    assert [(view.begin, view.end, view.masked_from) for view in views] == [
        (0, 128, 1), (0, 256, 129), (0, 384, 257), (0, 512, 385),
    ]  # fmt: skip


def test_a_model_that_drops_keywords_is_an_error() -> None:
    with pytest.raises(TypeError, match="does not pass keywords"):
        attention.packed_attention(torch.nn.Identity(), torch.ones(1), torch.ones(1), torch.ones(1), None)
