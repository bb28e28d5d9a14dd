"""Attention over the interval mask, one back end a device, behind one call.

A layout is made once a batch and handed to the model as the keyword `layout`; transformers passes unknown keywords
down to the attention function, where every layer calls `layout.attend`. The back ends compute the same thing:

    DenseLayout   a [T, T] mask; the reference, any device, small inputs
    BlockLayout   CPU: tree nodes of like size grouped into batched matmuls, nothing masked out is computed
    FlexLayout    CUDA: FlexAttention with a block mask

Extra legend: h query heads, g key/value heads, D head width, M nodes, L queries and S keys of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from bottega.batch import Batch, Ints, Nodes
from bottega.models.fused.dropout import dropout

NAME = "bottega"
"""The name under which transformers finds this attention."""

SMALL = 4096
"""Query-key pairs worth computing in vain to save a group of its own (a dozen kernel calls)."""

COARSENESS = 5
"""Lengths are rounded up in their sixth binary digit: short ones to a multiple of a few, from 256 on by 3 %
at most, and to one of 32 between 1,024 and 2,048."""

LARGE = 1 << 20
"""Pairs of one node above which scores are not kept: the fused kernel recomputes them in the backward."""


@dataclass(frozen=True)
class Style:
    """What a layer asks of its attention beside the mask."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    sinks: Tensor | None = None


class Layout(Protocol):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: Style) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → [1, T, h, D]."""
        ...


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer once the model's attention is set to `NAME`."""
    if layout is None:
        raise TypeError(f"{type(module).__name__} does not pass keywords down to its attention")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(query, key, value, Style(scaling, sliding_window, softcap, dropout, s_aux)), None


def register() -> None:
    """Make `model.set_attn_implementation(NAME)` work; safe to call again."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def layout_for(batch: Batch) -> Layout:
    """The fastest back end for the device the batch is on; the batch may be padded."""
    return FlexLayout(batch) if batch.tokens.is_cuda else BlockLayout(batch)


def padded(batch: Batch, least: int | None = None) -> Batch:
    """The batch with tokens at its end that belong to no row: each sees and is seen by itself alone.

    Matrix libraries compile and keep a kernel for each shape they meet (with oneDNN 0.4 ms and about half a megabyte
    each), and FlexAttention wants whole blocks; few different lengths keep both few.

    least  its length becomes a multiple of this; by default of what the device's back end wants
    """
    length = len(batch.tokens)
    least = least or (FlexLayout.BLOCK if batch.tokens.is_cuda else 8)
    extra = rounded(length, least) - length
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


def rounded(length: int, least: int = 8) -> int:
    """`length` rounded up to one of few numbers, all of them multiples of `least`."""
    step = max(least, 1 << max(0, length.bit_length() - 1 - COARSENESS))
    return -(-length // step) * step


def visible(batch: Batch, query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Which `key` indices each `query` index may see: broadcast of the two index tensors, bool."""
    seen = (batch.first[key] <= query) & (query < batch.last[key])
    if window is not None:
        # Encoders with local attention look both ways; for causal rows the second half is always true.
        seen &= (batch.position[query] - batch.position[key]).abs() < window
    return seen


class DenseLayout:
    """The definition in code: scores between all pairs, hidden ones set to minus infinity."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None) -> Tensor:
        if window not in self.masks:
            index = torch.arange(len(self.batch.tokens), device=self.batch.tokens.device)
            self.masks[window] = visible(self.batch, index[:, None], index[None, :], window)
        return self.masks[window]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: Style) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        scores = (query @ key.transpose(-1, -2)) * style.scaling
        if style.softcap is not None:
            scores = style.softcap * torch.tanh(scores / style.softcap)
        scores = scores.masked_fill(~self.mask(style.window), -torch.inf)
        if style.sinks is not None:
            sinks = style.sinks.view(1, -1, 1, 1).expand(-1, -1, scores.shape[2], 1)
            probabilities = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        else:
            probabilities = scores.softmax(-1)
        return (F.dropout(probabilities, style.dropout) @ value).transpose(1, 2)


@dataclass(frozen=True)
class _Group:
    """Nodes of like size, padded to a rectangle.

    query  [M, L] flat indices; padding repeats the node's last token, whose result is not read
    key    [M, S] flat indices of the node's path; padding repeats the last and is masked
    real   [M, S] which keys are not padding
    whole  the group is the flat sequence itself, so that nothing needs to be gathered
    """

    query: Tensor
    key: Tensor
    real: Tensor
    whole: bool


class BlockLayout:
    """A node's tokens see their ancestors and themselves, so only those products are computed.

    Nodes of like size go through one batched matmul; the prefix of a shared node is gathered for each child.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.groups = [_pad(batch.nodes, members) for members in _group(batch.nodes)]
        self.biases: dict[tuple[int, int | None, torch.dtype], Tensor] = {}
        queries = torch.cat([group.query.flatten() for group in self.groups])
        # Padding comes after its original in each node, and the first place that holds a token is its own.
        order = torch.from_numpy(np.unique(queries.numpy(), return_index=True)[1])
        self.tokens = len(order)
        # What belongs to no row reads the result of the first token, and nobody reads what it makes of it.
        order = F.pad(order, (0, len(batch.tokens) - self.tokens))
        self.inverse = None if len(self.groups) == 1 and self.groups[0].whole and len(order) == self.tokens else order

    def bias(self, index: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """[M, 1, L, S]: 0 where visible, minus infinity elsewhere."""
        key = (index, window, dtype)
        if key not in self.biases:
            group = self.groups[index]
            seen = visible(self.batch, group.query[:, :, None], group.key[:, None, :], window) & group.real[:, None, :]
            self.biases[key] = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)[:, None]
        return self.biases[key]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: Style) -> Tensor:
        (_, heads, _, width), groups = query.shape, key.shape[1]
        flat = [x[0].transpose(0, 1).reshape(x.shape[2], -1)[: self.tokens] for x in (query, key, value)]
        out = []
        for index, group in enumerate(self.groups):
            # q [M, g, h/g, L, D]; k, v [M, g, S, D]: the heads that share keys fold into the query length.
            q = _take(flat[0], None if group.whole else group.query, group.query.shape)
            q = q.view(*group.query.shape, groups, heads // groups, width).permute(0, 2, 3, 1, 4)
            k, v = (
                _take(x, None if group.whole else group.key, group.key.shape)
                .view(*group.key.shape, groups, -1)
                .permute(0, 2, 1, 3)
                for x in flat[1:]
            )
            result = _scaled_dot_product(q, k, v, self.bias(index, style.window, query.dtype), style)
            out.append(result.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1))
        joined = out[0] if len(out) == 1 else torch.cat(out)
        joined = joined if self.inverse is None else joined.index_select(0, self.inverse)
        return joined.view(1, -1, heads, value.shape[-1])


def _take(flat: Tensor, index: Tensor | None, shape: torch.Size) -> Tensor:
    return flat.view(*shape, -1) if index is None else flat.index_select(0, index.flatten()).view(*shape, -1)


def _scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, style: Style) -> Tensor:
    """q [M, g, r, L, D], k v [M, g, S, D], bias [M, 1, L, S] → [M, g, r, L, D]; a value may have a width of its own."""
    members, groups, repeat, length, width = q.shape
    pairs = length * k.shape[2]
    if pairs > LARGE and style.softcap is None and style.sinks is None:
        heads = q.reshape(members, groups * repeat, length, width)
        out = F.scaled_dot_product_attention(
            heads, k, v, attn_mask=bias, dropout_p=style.dropout, scale=style.scaling, enable_gqa=repeat > 1
        )
        return out.view(members, groups, repeat, length, -1)
    scores = (q.reshape(members, groups, repeat * length, width) * style.scaling) @ k.transpose(-1, -2)
    scores = scores.view(members, groups, repeat, length, -1)
    if style.softcap is not None:
        scores = style.softcap * torch.tanh(scores / style.softcap)
    scores = scores + bias[:, None]
    if style.sinks is not None:
        sinks = style.sinks.view(1, groups, repeat, 1, 1).expand(members, -1, -1, length, 1)
        probabilities = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    else:
        probabilities = scores.softmax(-1)
    probabilities = dropout(probabilities, style.dropout).view(members, groups, repeat * length, -1)
    return (probabilities @ v).view(members, groups, repeat, length, -1)


def _group(nodes: Nodes) -> list[list[int]]:
    """Node indices by group: longest first, a node joins the newest group while the padding stays `SMALL`."""
    length = nodes.end - nodes.start
    keys = length.copy()
    for node in range(len(nodes)):
        if nodes.parent[node] >= 0:
            keys[node] += keys[nodes.parent[node]]
    if (length == length[0]).all() and (keys == keys[0]).all():
        return [list(range(len(nodes)))]
    groups: list[list[int]] = []
    widest = longest = 0
    for node in np.lexsort((-keys, -length)):
        needed = max(widest, int(keys[node]))
        grown = len(groups[-1]) * longest * (needed - widest) if groups else 0
        padding = longest * needed - int(length[node] * keys[node])
        if not groups or grown + padding > SMALL:
            groups.append([])
            longest, needed = int(length[node]), int(keys[node])
        groups[-1].append(int(node))
        widest = needed
    return groups


def _pad(nodes: Nodes, members: Sequence[int]) -> _Group:
    paths = [nodes.path(node) for node in members]
    own = [np.arange(nodes.start[node], nodes.end[node]) for node in members]
    lengths = torch.tensor([len(path) for path in paths])
    whole = bool((lengths == lengths[0]).all()) and np.array_equal(np.concatenate(paths), np.arange(nodes.end.max()))
    keys, queries = (_rectangle(spans, len(spans[0]) if whole else None) for spans in (paths, own))
    real = torch.arange(keys.shape[1])[None] < lengths[:, None]
    return _Group(torch.from_numpy(queries), torch.from_numpy(keys), real, whole)


def _rectangle(spans: Sequence[Ints], width: int | None = None) -> Ints:
    """The spans as rows of `width`, or of the longest's, rounded; each padded with its last index."""
    width = width or rounded(max(map(len, spans)), 16)
    return np.stack([np.pad(span, (0, width - len(span)), mode="edge") for span in spans])


class FlexLayout:
    """FlexAttention over the interval mask; its backward runs only on CUDA.

    A padded batch is whole blocks. Attention dropout and sinks have no form in FlexAttention; they go the dense way.
    """

    BLOCK = 128

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.dense = DenseLayout(batch)
        self.masks: dict[int | None, Any] = {}

    def mask(self, window: int | None) -> Any:
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        return self.masks[window]

    def _mask(self, window: int | None) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        def seen(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return visible(self.batch, q, k, window)

        length = len(self.batch.tokens)
        return create_block_mask(seen, None, None, length, length, device=str(self.batch.tokens.device))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: Style) -> Tensor:
        if style.dropout or style.sinks is not None:
            return self.dense.attend(query, key, value, style)
        cap = style.softcap

        def capped(score: Tensor, *_: Tensor) -> Tensor:
            return cap * torch.tanh(score / cap) if cap is not None else score

        out: Tensor = _flex(query.is_cuda)(
            query,
            key,
            value,
            score_mod=capped if cap is not None else None,
            block_mask=self.mask(style.window),
            scale=style.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.transpose(1, 2)


@cache
def _flex(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
