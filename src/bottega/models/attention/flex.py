"""FlexAttention over the interval mask, with a block mask that is never larger than blocks by blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.batch import Batch
from bottega.models.attention.mask import AttentionOptions, interval_mask
from bottega.models.compile import compile_function
from bottega.packing import FLEX_BLOCK

# The narrowest head FlexAttention's kernels support; narrower ones are padded with zeros.
MIN_HEAD_WIDTH = 16

# FORCE_USE_FLEX_ATTENTION: else a second kernel, for few queries, would be compiled beside this one.
# IS_DIVISIBLE: lengths are whole blocks (`pad_tree`), which the compiler cannot see of a dynamic length.
KERNEL_OPTIONS = {"FORCE_USE_FLEX_ATTENTION": True, "IS_DIVISIBLE": True}


class FlexLayout:
    """FlexAttention (Dong et al. 2024, arXiv 2412.05496); its backward runs on CUDA only.

    The batch must be padded to whole blocks.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.masks: dict[int | None, Any] = {}

    def mask(self, window: int | None) -> Any:
        """The block mask, made once per window."""
        if window not in self.masks:
            self.masks[window] = _make_block_mask(self.batch, window)
        return self.masks[window]

    def supports(self, query: Tensor, value: Tensor, options: AttentionOptions) -> bool:
        """Whether it can compute this: it has no dropout, no relative bias from a table, and no float64."""
        return not options.dropout and options.relative_bias is None and query.dtype != torch.float64

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        width = value.shape[-1]
        query, key, value = (_pad_head_width(x) for x in (query, key, value))
        for x in (query, key, value) if query.is_cuda else ():
            # One compiled kernel for all lengths.
            torch._dynamo.maybe_mark_dynamic(x, 2)
        # A tensor: a Python number would be compiled in, and every other value compiled again.
        cap = None if options.softcap is None else query.new_tensor(options.softcap, dtype=torch.float32)
        out, log_sum_exp = _flex_attention(query.is_cuda)(  # [1, h, T, D], [1, h, T]
            query,
            key,
            value,
            score_mod=None if cap is None else _softcap_mod(cap),
            block_mask=self.mask(options.window),
            scale=options.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=KERNEL_OPTIONS,
        )
        out = out[..., :width]
        if options.sinks is not None:
            # A sink s is one more key with value 0: it scales the output by e^lse / (e^lse + e^s) = σ(lse − s).
            out = out * torch.sigmoid(log_sum_exp - options.sinks.view(1, -1, 1)).to(out.dtype)[..., None]
        return out.transpose(1, 2)


def _pad_head_width(x: Tensor) -> Tensor:
    return F.pad(x, (0, MIN_HEAD_WIDTH - x.shape[-1])) if x.shape[-1] < MIN_HEAD_WIDTH else x


def _softcap_mod(cap: Tensor) -> Callable[..., Tensor]:
    """FlexAttention's `score_mod` for a softcap; `cap` is a scalar tensor."""

    def score(value: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(value / cap)

    return score


def _make_block_mask(batch: Batch, window: int | None) -> Any:
    """A BlockMask: which pairs of query and key blocks are visible fully, partly or not at all.

    Decided from the smallest and largest value of each block, so that no [T, T] tensor is made. This is conservative: a
    block taken for partly visible may turn out empty, and is then computed in vain.
    """
    from torch.nn.attention.flex_attention import BlockMask

    first, last, position = (x.int() for x in (batch.first, batch.last, batch.position))  # [T]
    # A tensor for the same reason as the softcap: the mask function is compiled.
    window_size = None if window is None else first.new_tensor(window)
    low = torch.arange(0, len(first), FLEX_BLOCK, device=first.device)[:, None]  # [blocks, 1]
    high = low + FLEX_BLOCK - 1
    (first_min, first_max), (last_min, last_max), (pos_min, pos_max) = map(_block_min_max, (first, last, position))
    partly = (first_min <= high) & (last_max > low)  # [query blocks, key blocks]
    fully = (first_max <= low) & (last_min > high)
    if window is not None:
        partly &= torch.maximum(pos_min[:, None] - pos_max, pos_min - pos_max[:, None]) < window
        fully &= torch.maximum(pos_max[:, None] - pos_min, pos_max - pos_min[:, None]) < window

    def mask_mod(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return interval_mask(first, last, position, query, key, window_size)

    count, index = _block_lists(partly & ~fully)
    full_count, full_index = _block_lists(fully)
    lengths = (len(first), len(first))
    return BlockMask.from_kv_blocks(count, index, full_count, full_index, FLEX_BLOCK, mask_mod, lengths)


def _block_min_max(values: Tensor) -> tuple[Tensor, Tensor]:
    """[T] → ([blocks], [blocks]) smallest and largest value of each block."""
    smallest, largest = values.view(-1, FLEX_BLOCK).aminmax(dim=1)
    return smallest, largest


def _block_lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[n, n] bool → ([1, 1, n] number of true key blocks per query block, [1, 1, n, n] their indices, those first)."""
    order = blocks.byte().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]


@cache
def _flex_attention(compiled: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """flex_attention that also returns the log-sum-exp of each query; uncompiled, it runs on a CPU as a reference."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def attend(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        out, aux = flex_attention(*arguments, return_aux=AuxRequest(lse=True), **options)
        return out, aux.lse

    return compile_function(attend) if compiled else attend
