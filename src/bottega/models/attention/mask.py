"""The interval mask of a batch, and the options that a layer passes to its attention beside the mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.batch import Batch, EncoderInput, Nodes

# Leading binary digits of a length that stay free when it is rounded up, beside the first: short lengths become a
# multiple of a few, those from 256 on grow by 3 % at most, and there are 32 lengths between 1,024 and 2,048.
LENGTH_BITS = 5

# Tokens per block of FlexAttention, which computes whole blocks only.
FLEX_BLOCK = 128


AnyTokenTree = TypeVar("AnyTokenTree", Batch, EncoderInput)


@dataclass(frozen=True)
class AttentionOptions:
    """Options of one layer's attention, beside the mask.

    scaling        factor of the scores q·k
    window         size of the sliding window; None for full attention
    softcap        scores become softcap · tanh(score / softcap)
    dropout        probability of dropout on the attention weights
    sinks          [h] logits of an extra key per head, whose value is 0
    relative_bias  [2D + 1, h] added to a score by the distance key − query, from −D to D (see `relative_bias_index`)
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    sinks: Tensor | None = None
    relative_bias: Tensor | None = None


class TokenTree(Protocol):
    """A flat sequence of tokens with its prefix tree: a `Batch`, or the `EncoderInput` beside one."""

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
    """Where the queries and keys of a batch lie; computed once per batch, used by every layer."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → [1, T, h, D]."""
        ...


def pad_tree(batch: AnyTokenTree, multiple: int | None = None) -> AnyTokenTree:
    """The batch with padding tokens at its end that belong to no row: each attends to itself alone.

    multiple  the padded length is a multiple of this; by default what the device's back end needs
    """
    # Matrix libraries compile and keep a kernel for each shape they meet (oneDNN: 0.4 ms and half a megabyte each), so
    # a few different lengths keep both small.
    length = len(batch.tokens)
    multiple = multiple or (FLEX_BLOCK if batch.tokens.is_cuda else 8)
    padding = round_length(length, multiple) - length
    if not padding:
        return batch
    index = torch.arange(length, length + padding, device=batch.tokens.device)  # [padding]
    return replace(
        batch,
        tokens=F.pad(batch.tokens, (0, padding)),
        position=F.pad(batch.position, (0, padding)),
        # The interval [i, i + 1): a softmax over no key at all would be NaN, so each sees itself.
        first=torch.cat([batch.first, index]),
        last=torch.cat([batch.last, index + 1]),
    )


def round_length(length: int, multiple: int = 8) -> int:
    """`length` rounded up to one of few numbers, all multiples of `multiple`."""
    step = max(multiple, 1 << max(0, length.bit_length() - 1 - LENGTH_BITS))
    return -(-length // step) * step


def relative_bias_index(query: Tensor, key: Tensor, max_distance: int) -> Tensor:
    """Rows of `AttentionOptions.relative_bias` for positions of queries and keys, broadcast; `max_distance` is D."""
    return (key - query).clamp(-max_distance, max_distance) + max_distance


def visible_keys(batch: TokenTree, query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Bool mask of which `key` indices each `query` index sees: the broadcast of both index tensors."""
    return interval_mask(batch.first, batch.last, batch.position, query, key, window)


def interval_mask(
    first: Tensor, last: Tensor, position: Tensor, query: Tensor, key: Tensor, window: int | Tensor | None
) -> Tensor:
    """`visible_keys` from the three tensors of a batch, as FlexAttention compiles it."""
    visible = (first[key] <= query) & (query < last[key])
    if window is None:
        return visible
    # Positions, not indices: tokens of other branches stand between a query and its prefix. The absolute value serves
    # encoders with local attention, which look both ways; in causal rows the difference is never negative.
    return visible & ((position[query] - position[key]).abs() < window)
