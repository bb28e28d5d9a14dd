"""The interval mask of a batch, and the options that a layer passes to its attention beside the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor

from bottega.batch import Nodes


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
