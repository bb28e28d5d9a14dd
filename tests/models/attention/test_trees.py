"""Attention in C++ against the dense definition in float64, values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bottega.batch import Batch, Example, Row
from bottega.models import native
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.dense import DenseLayout
from bottega.models.attention.mask import AttentionOptions
from bottega.models.attention.trees import TreeLayout
from bottega.packing import pack, pad_tree

pytestmark = pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")

LENGTHS = (5, 33, 64, 150, 1)


def row(ids: Any, both_ways: bool = False) -> Row:
    at = np.arange(len(ids)) if both_ways else np.array([len(ids) - 1])
    return Row(np.asarray(ids), at, np.asarray(ids)[at], np.ones(len(at), np.float32), both_ways)


def make_batch(kind: str) -> Batch:
    """Rows that share nothing, a tree of rows with prefixes at two depths, or rows that see both ways."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 1000, length) for length in LENGTHS]
    if kind == "tree":
        common, more = draw.integers(0, 1000, 70), draw.integers(0, 1000, 20)
        rows = [row([*common, *more[: 20 * (index % 2)], *text]) for index, text in enumerate(texts)]
        return pack([Example("0", tuple(rows)), Example("1", (row(texts[3]),))])
    return pack([Example(str(index), (row(text, kind == "both ways"),)) for index, text in enumerate(texts)])


def tensors(batch: Batch, sizes: tuple[int, int, int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    heads, groups, width, value_width = sizes
    shapes = ((heads, width), (groups, width), (groups, value_width))
    return [torch.randn(1, n, len(batch.tokens), d).to(dtype).requires_grad_() for n, d in shapes]


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("sizes", [(9, 3, 64, 64), (4, 4, 32, 64), (2, 1, 96, 32)])
@pytest.mark.parametrize("kind", ["rows", "tree", "both ways"])
def test_it_equals_the_dense_reference(
    kind: str, sizes: tuple[int, int, int, int], window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    batch, options = make_batch(kind), AttentionOptions(0.2, window)
    given = tensors(batch, sizes, dtype)
    wide = [x.detach().double().requires_grad_() for x in given]
    found, exact = TreeLayout(batch).attend(*given, options), DenseLayout(batch).attend(*wide, options)
    with torch.no_grad():
        assert torch.equal(TreeLayout(batch).attend(*given, options), found)
    slopes = torch.randn_like(exact)
    gradients = torch.autograd.grad(found, given, slopes.to(dtype))
    wanted = torch.autograd.grad(exact, wide, slopes.to(dtype).double())
    for one, other in zip((found, *gradients), (exact, *wanted), strict=True):
        assert one.shape == other.shape
        assert relative(one, other) <= tolerance


@pytest.mark.parametrize("kind", ["rows", "tree", "both ways"])
@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout(dropout: float, kind: str) -> None:
    """The weights that are dropped, seen by values that name their token, are those without which gradients come."""
    torch.manual_seed(0)
    batch = make_batch(kind)
    length = len(batch.tokens)
    width = -(-length // 32) * 32
    q, k, _ = tensors(batch, (4, 2, 32, 32), torch.float32)
    named = torch.eye(length, width).expand(1, 2, length, width).contiguous().requires_grad_()
    options, plain = AttentionOptions(0.2, dropout=dropout), AttentionOptions(0.2)
    found = TreeLayout(batch).attend(q, k, named, options)  # [1, T, h, width]: the weights themselves
    weights = DenseLayout(batch).attend(*(x.double() for x in (q, k, named.detach())), plain)
    seen, kept = weights > 1e-9, found > 0
    assert abs(float(kept[seen].float().mean()) - (1 - dropout)) < 4 * (dropout / float(seen.sum())) ** 0.5
    mask = kept.double() * 65536 / (65536 - round(dropout * 65536))
    values = named.double().repeat_interleave(2, 1)  # [1, h, T, width]
    exact = torch.einsum("nthk,nhkw->nthw", (weights * mask)[..., :length], values)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    slopes = torch.randn_like(found)
    gradients = torch.autograd.grad(found, [q, k, named], slopes)
    wanted = torch.autograd.grad(exact, [q, k, named], slopes.double())
    for one, other in zip(gradients, wanted, strict=True):
        assert relative(one, other) <= 2e-5
    assert not torch.equal(TreeLayout(batch).attend(q, k, named, options) > 0, kept), "another use, another draw"


def test_padding_is_zero_and_changes_nothing() -> None:
    batch = make_batch("tree")
    padded = pad_tree(batch)
    length, options = len(batch.tokens), AttentionOptions(0.2)
    assert len(padded.tokens) > length
    given = tensors(padded, (4, 2, 32, 32), torch.float32)
    out = TreeLayout(padded).attend(*given, options)
    alone = [x[:, :, :length].detach().requires_grad_() for x in given]
    assert torch.equal(out[:, :length], TreeLayout(batch).attend(*alone, options))
    gradients = torch.autograd.grad(out[:, :length].sin().sum(), given)
    wanted = torch.autograd.grad(TreeLayout(batch).attend(*alone, options).sin().sum(), alone)
    for one, other in zip(gradients, wanted, strict=True):
        assert torch.equal(one[:, :, :length], other)
        assert not one[:, :, length:].any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    batch, options = make_batch("tree"), AttentionOptions(0.2)
    given, threads = tensors(batch, (4, 2, 32, 32), torch.bfloat16), torch.get_num_threads()
    results = []
    for number in (1, 3):
        torch.set_num_threads(number)
        out = TreeLayout(batch).attend(*given, options)
        results.append([out, *torch.autograd.grad(out, given, torch.ones_like(out))])
    torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "width", "dtype"),
    [
        (AttentionOptions(0.2, softcap=3.0), 32, torch.float32),
        (AttentionOptions(0.2, sinks=torch.zeros(4)), 32, torch.float32),
        (AttentionOptions(0.2), 24, torch.float32),
        (AttentionOptions(0.2), 32, torch.float64),
    ],
)
def test_what_does_not_fit_is_computed_in_blocks(options: AttentionOptions, width: int, dtype: torch.dtype) -> None:
    batch = make_batch("tree")
    given = tensors(batch, (4, 2, width, width), dtype)
    assert torch.equal(TreeLayout(batch).attend(*given, options), BlockLayout(batch).attend(*given, options))
