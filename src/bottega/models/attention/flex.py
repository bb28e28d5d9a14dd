"""Attention on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.mask import FLEX_BLOCK, AttentionOptions, interval_mask
from bottega.models.compile import compile_function

MIN_HEAD_WIDTH = 16
"""Width of a head that FlexAttention's kernels begin at; a narrower one is filled up with zeros."""

KERNEL_OPTIONS = {"FORCE_USE_FLEX_ATTENTION": True, "IS_DIVISIBLE": True}
"""One kernel for every length, as the one for few queries would be compiled beside it; and lengths are whole blocks,
which the compiler cannot see of a length that it does not know."""


class FlexLayout:
    """FlexAttention (Dong et al. 2024, arXiv 2412.05496) over the interval mask; its backward runs only on CUDA.

    A padded batch is whole blocks.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.masks: dict[int | None, Any] = {}

    def mask(self, window: int | None) -> Any:
        """The block mask, made once."""
        if window not in self.masks:
            self.masks[window] = _make_block_mask(self.batch, window)
        return self.masks[window]

    def takes(self, query: Tensor, value: Tensor, style: AttentionOptions) -> bool:
        """Whether this can compute it: dropout, positions from a table and float64 have no form in it."""
        return not style.dropout and style.near is None and query.dtype != torch.float64

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        width = value.shape[-1]
        query, key, value = (_pad_head_width(x) for x in (query, key, value))
        for x in (query, key, value) if query.is_cuda else ():
            torch._dynamo.maybe_mark_dynamic(x, 2)
        out, total = _flex_attention(query.is_cuda)(
            query,
            key,
            value,
            score_mod=None
            if style.softcap is None
            else _softcap_mod(query.new_tensor(style.softcap, dtype=torch.float32)),
            block_mask=self.mask(style.window),
            scale=style.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=KERNEL_OPTIONS,
        )
        out = out[..., :width]
        if style.sinks is not None:
            # A sink is one more key of the value 0: what the softmax over the others comes to is scaled.
            out = out * torch.sigmoid(total - style.sinks.view(1, -1, 1)).to(out.dtype)[..., None]
        return out.transpose(1, 2)


def _pad_head_width(x: Tensor) -> Tensor:
    return F.pad(x, (0, MIN_HEAD_WIDTH - x.shape[-1])) if x.shape[-1] < MIN_HEAD_WIDTH else x


def _softcap_mod(cap: Tensor) -> Callable[..., Tensor]:
    """Of a tensor without dimensions, which is data: a number would be a part of what is compiled."""

    def score(value: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(value / cap)

    return score


def _make_block_mask(batch: Batch, window: int | None) -> Any:
    """The mask, and which of its blocks of queries and keys are all, partly or not at all visible.

    That is read off the least and the largest number of each block, so that none of [T, T] is ever made. A block taken
    for partly visible may be empty, and is then computed in vain.
    """
    from torch.nn.attention.flex_attention import BlockMask

    first, last, position = (x.int() for x in (batch.first, batch.last, batch.position))
    reach = None if window is None else first.new_tensor(window)
    low = torch.arange(0, len(first), FLEX_BLOCK, device=first.device)[:, None]
    high = low + FLEX_BLOCK - 1
    (first_low, first_high), (last_low, last_high), (near, far) = map(_block_min_max, (first, last, position))
    some = (first_low <= high) & (last_high > low)
    whole = (first_high <= low) & (last_low > high)
    if window is not None:
        some &= torch.maximum(near[:, None] - far, near - far[:, None]) < window
        whole &= torch.maximum(far[:, None] - near, far - near[:, None]) < window

    def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return interval_mask(first, last, position, query, key, reach)

    count, index = _block_lists(some & ~whole)
    full_count, full_index = _block_lists(whole)
    lengths = (len(first), len(first))
    return BlockMask.from_kv_blocks(count, index, full_count, full_index, FLEX_BLOCK, seen, lengths)


def _block_min_max(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of each block."""
    least, largest = numbers.view(-1, FLEX_BLOCK).aminmax(dim=1)
    return least, largest


def _block_lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """([1, 1, n] how many blocks of keys are true for each block of queries, [1, 1, n, n] these first)."""
    order = blocks.byte().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]


@cache
def _flex_attention(fast: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """(what attention gives, the logarithm of each query's sum), compiled where it is to be fast."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def attend(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        out, beside = flex_attention(*arguments, return_aux=AuxRequest(lse=True), **options)
        return out, beside.lse

    return compile_function(attend) if fast else attend
