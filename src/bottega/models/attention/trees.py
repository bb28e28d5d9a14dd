"""Attention of a batch's tokens to their ancestors in C++ (`models/native/tree_attention.h`), forward and backward.

It reads queries and keys where they lie, needs no padding, and keeps one number per query instead of all scores.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bottega.models import native
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.mask import AttentionOptions, TokenTree
from bottega.models.fast_dropout import LEVELS, draw_dropout, dropped_levels

# The widths of keys and values must be multiples of this.
WIDTH_MULTIPLE = 32


class TreeLayout:
    """The nodes of a batch, or the texts of an encoder; what does not fit the operators is computed in blocks."""

    def __init__(self, batch: TokenTree) -> None:
        self.batch = batch

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, E] → [1, T, h, E]."""
        if not _fits(query, key, value, options):
            return self.blocks.attend(query, key, value, options)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, h, D], [T, g, D], [T, g, E]
        draw = draw_dropout(options.dropout)
        settings = (self.nodes, self.tokens, options.scaling, options.window or 0, *draw)
        if torch.is_grad_enabled():
            return cast(Tensor, cast(Any, _TreeAttention.apply)(q, k, v, *settings))[None]
        out, _ = torch.ops.bottega.attend_trees(q, k, v, *settings)
        return cast(Tensor, out)[None]

    @cached_property
    def blocks(self) -> BlockLayout:
        return BlockLayout(self.batch)

    @cached_property
    def nodes(self) -> Tensor:
        """[M, 3] the first token, end and parent of each node."""
        nodes = self.batch.nodes
        return torch.stack([torch.from_numpy(x) for x in (nodes.start, nodes.end, nodes.parent)], 1)

    @cached_property
    def tokens(self) -> Tensor:
        """[T, 3] the first query that sees each token, the end of those that do, and its position."""
        return torch.stack([self.batch.first, self.batch.last, self.batch.position], 1).long()


class _TreeAttention(torch.autograd.Function):
    """[T, h, D], [T, g, D], [T, g, E] → [T, h, E]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *settings: Any) -> Tensor:
        out, logs = torch.ops.bottega.attend_trees(q, k, v, *settings)
        ctx.save_for_backward(q, k, v, out, logs)
        ctx.settings = settings
        return cast(Tensor, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_q, d_k, d_v = torch.ops.bottega.attend_trees_backward(gradients[0], *ctx.saved_tensors, *ctx.settings)
        return d_q, d_k, d_v, *[None] * len(ctx.settings)


def _fits(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> bool:
    is_simple = (
        options.softcap is None
        and options.sinks is None
        and options.relative_bias is None
        and dropped_levels(options.dropout) < LEVELS
    )
    tensors = (query, key, value)
    widths = all(x.shape[-1] % WIDTH_MULTIPLE == 0 for x in tensors)
    return (
        is_simple
        and widths
        and all(x.dtype == query.dtype and x.is_cpu for x in tensors)
        and (query.dtype in native.DTYPES and not torch.compiler.is_compiling())
    )
