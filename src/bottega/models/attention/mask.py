"""What a token sees: the interval mask of a batch, and what a layer asks of its attention beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.batch import Batch, EncoderInput, Nodes

LENGTH_BITS = 5
"""Lengths are rounded up in their sixth binary digit: short ones to a multiple of a few, from 256 on by 3 %
at most, and to one of 32 between 1,024 and 2,048."""

FLEX_BLOCK = 128
"""Tokens of a block of FlexAttention, which wants whole ones."""


AnyTokenTree = TypeVar("AnyTokenTree", Batch, EncoderInput)


@dataclass(frozen=True)
class AttentionOptions:
    """What a layer asks of its attention beside the mask."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    sinks: Tensor | None = None
    near: Tensor | None = None
    """[2D + 1, h] what is added to a score by how far the key is from the query, from D before it to D behind."""


class TokenTree(Protocol):
    """What a layout is made of: a batch, or what an encoder reads beside one."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def position(self) -> Tensor: ...
    @property
    def first(self) -> Tensor: ...
    @property
    def last(self) -> Tensor: ...
    @property
    def nodes(self) -> Nodes: ...
    def to(self, device: str) -> Self: ...


class AttentionLayout(Protocol):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → [1, T, h, D]."""
        ...


def pad_tree(batch: AnyTokenTree, least: int | None = None) -> AnyTokenTree:
    """The batch with tokens at its end that belong to no row: each sees and is seen by itself alone.

    Matrix libraries compile and keep a kernel for each shape they meet (with oneDNN 0.4 ms and about half a megabyte
    each), and FlexAttention wants whole blocks; few different lengths keep both few.

    least  its length becomes a multiple of this; by default of what the device's back end wants
    """
    length = len(batch.tokens)
    least = least or (FLEX_BLOCK if batch.tokens.is_cuda else 8)
    extra = round_length(length, least) - length
    if not extra:
        return batch
    alone = torch.arange(length, length + extra, device=batch.tokens.device)
    return replace(
        batch,
        tokens=F.pad(batch.tokens, (0, extra)),
        position=F.pad(batch.position, (0, extra)),
        first=torch.cat([batch.first, alone]),
        last=torch.cat([batch.last, alone + 1]),
    )


def round_length(length: int, least: int = 8) -> int:
    """`length` rounded up to one of few numbers, all of them multiples of `least`."""
    step = max(least, 1 << max(0, length.bit_length() - 1 - LENGTH_BITS))
    return -(-length // step) * step


def relative_bias_index(query: Tensor, key: Tensor, reach: int) -> Tensor:
    """Rows of `Style.near` for positions of queries and keys, broadcast; `reach` is its D."""
    return (key - query).clamp(-reach, reach) + reach


def visible_keys(batch: TokenTree, query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Which `key` indices each `query` index may see: broadcast of the two index tensors, bool."""
    return interval_mask(batch.first, batch.last, batch.position, query, key, window)


def interval_mask(
    first: Tensor, last: Tensor, position: Tensor, query: Tensor, key: Tensor, window: int | Tensor | None
) -> Tensor:
    """The same of a batch's three tensors: what FlexAttention compiles."""
    seen = (first[key] <= query) & (query < last[key])
    if window is None:
        return seen
    # Encoders with local attention look both ways; for causal rows the second half is always true.
    return seen & ((position[query] - position[key]).abs() < window)
