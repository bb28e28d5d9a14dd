"""Attention in blocks of queries and the keys they can see, as batched matmuls.

A node's tokens see their ancestors and themselves. Nodes of like size form a group, padded to a rectangle, whose keys
are gathered once; its queries are taken `QUERIES` at a time, each with no more keys than its last one sees. What is
plain (no softcap, no sinks) is an autograd function of its own, which keeps probabilities, or nothing of a long node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from bottega.batch import EncoderInput, Ints
from bottega.models.attention.mask import AttentionOptions, TokenTree, relative_bias_index, round_length, visible_keys
from bottega.models.fast_dropout import LEVELS, apply_keep_mask, draw_seed, dropout, dropped_levels, make_keep_mask

MAX_PADDING_PAIRS = 1024
"""Query-key pairs worth computing in vain to save a group of its own (a dozen kernel calls)."""

QUERY_BLOCK = 128
"""Queries of a node computed together, or about so many."""

MAX_KEPT_PAIRS = 1 << 20
"""Pairs of one node above which probabilities are not kept but computed again in the backward."""


@dataclass(frozen=True)
class _NodeGroup:
    """Nodes of like size, padded to a rectangle.

    query  [M, L] flat indices; padding repeats the node's last token, whose result is not read
    key    [M, S] flat indices of the node's path; padding repeats the last and is masked
    read   [M, L] which queries are not padding
    real   [M, S] which keys are not padding
    cuts   where its queries are cut into blocks, both ends included
    """

    query: Tensor
    key: Tensor
    read: Tensor
    real: Tensor
    cuts: Sequence[int]


@dataclass(frozen=True)
class _KeyView:
    """The keys `begin` to `end` of a group that a block computes; `bias` hides some from the column `start` on.

    bias  [M, 1, 1, L, …]: 0 where visible, minus infinity elsewhere; None where every query sees all of them
    """

    begin: int
    end: int
    start: int
    bias: Tensor | None


@dataclass(frozen=True)
class _QueryBlock:
    """Some queries of the nodes of a group, for a number of heads.

    query    [M·g·r·L] places in the queries [T·h, D]
    padding  places in `query` that are not read; None where there are none
    sizes    (M, g, r, L)
    """

    query: Tensor
    padding: Tensor | None
    sizes: tuple[int, int, int, int]

    def to(self, device: torch.device) -> _QueryBlock:
        padding = None if self.padding is None else self.padding.to(device)
        return _QueryBlock(self.query.to(device), padding, self.sizes)


@dataclass(frozen=True)
class _GatherPlan:
    """Where everything lies for a number of heads.

    blocks   of each group
    keys     [M·g·S] of each group, places in the keys [T·g, D]
    answers  [T·h] places in what the blocks give, one after the other, with a row of zeros at the end
    sources  [T·g] the same for the gradients of keys and values; None where a key is in several nodes' paths
    """

    blocks: list[list[_QueryBlock]]
    keys: list[Tensor]
    answers: Tensor
    sources: Tensor | None

    def to(self, device: torch.device) -> _GatherPlan:
        sources = None if self.sources is None else self.sources.to(device)
        blocks = [[block.to(device) for block in blocks] for blocks in self.blocks]
        return _GatherPlan(blocks, [keys.to(device) for keys in self.keys], self.answers.to(device), sources)


class BlockLayout:
    """The tree of a batch, or the texts an encoder reads, in groups of nodes; with `source` what nodes see of that."""

    def __init__(self, batch: TokenTree, source: EncoderInput | None = None) -> None:
        # It is laid out on the CPU, wherever it is computed.
        self.device, batch = batch.tokens.device, batch.to("cpu")
        source = None if source is None else source.to("cpu")
        self.batch, self.source = batch, source
        nodes, keys = batch.nodes, source or batch
        own = [np.arange(start, end) for start, end in zip(nodes.start, nodes.end, strict=True)]
        texts = None if source is None else source.of
        seen = [nodes.path(node) if texts is None else keys.nodes.path(texts[node]) for node in range(len(nodes))]
        groups = _group_nodes(own, seen)
        self.groups = [_pad_group([own[node] for node in group], [seen[node] for node in group]) for group in groups]
        self.lengths = (len(batch.tokens), len(keys.tokens))
        self.shared = sum(map(len, seen)) > len(np.unique(np.concatenate(seen)))
        self.plans: dict[tuple[int, int], _GatherPlan] = {}
        self.known: dict[tuple[int | None, torch.dtype], list[list[_KeyView]]] = {}
        self.added: tuple[Tensor, list[list[Tensor]]] | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, style: AttentionOptions) -> Tensor:
        plan = self.plan(query.shape[1], key.shape[1])
        views = self.views(style.window, query.dtype)
        q, k, v = (x[0].transpose(0, 1).reshape(-1, x.shape[-1]) for x in (query, key, value))
        if style.near is not None:
            out = _attend_by_autograd(q, k, v, plan, views, style, self.near(style.near, views))
        elif style.softcap is None and style.sinks is None and dropped_levels(style.dropout) < LEVELS:
            out = cast(Any, _BlockAttention.apply)(q, k, v, plan, views, style, self.long)
        else:
            out = _attend_by_autograd(q, k, v, plan, views, style)
        return out.view(1, -1, query.shape[1], value.shape[-1])

    @property
    def long(self) -> bool:
        """Whether a node has too many pairs to keep their probabilities."""
        return max(group.query.shape[1] * group.key.shape[1] for group in self.groups) > MAX_KEPT_PAIRS

    def plan(self, heads: int, groups: int) -> _GatherPlan:
        """Computed once; almost every model has the same heads in all its layers."""
        if (heads, groups) not in self.plans:
            plan = _make_plan(self.groups, heads, groups, self.lengths, shared=self.shared)
            self.plans[heads, groups] = plan.to(self.device)
        return self.plans[heads, groups]

    def views(self, window: int | None, dtype: torch.dtype) -> list[list[_KeyView]]:
        """What each block of each group sees."""
        if (window, dtype) not in self.known:
            self.known[window, dtype] = [
                [self._view(group, slice(*cut), window, dtype) for cut in pairwise(group.cuts)] for group in self.groups
            ]
        return self.known[window, dtype]

    def near(self, table: Tensor, views: list[list[_KeyView]]) -> list[list[Tensor]]:
        """[M, h, L, S] what is added to the scores of each block; all layers have one table, and it is read once."""
        if self.added is None or self.added[0] is not table:
            found = [
                [
                    self._near(group, slice(*cut), view, table)
                    for cut, view in zip(pairwise(group.cuts), seen, strict=True)
                ]
                for group, seen in zip(self.groups, views, strict=True)
            ]
            self.added = table, found
        return self.added[1]

    def _near(self, group: _NodeGroup, cut: slice, view: _KeyView, table: Tensor) -> Tensor:
        query, key = group.query[:, cut], group.key[:, view.begin : view.end]
        far = relative_bias_index(
            self.batch.position[query][:, :, None], self.batch.position[key][:, None, :], len(table) // 2
        )
        return embedding(far.to(self.device), table).permute(0, 3, 1, 2)

    def _view(self, group: _NodeGroup, cut: slice, window: int | None, dtype: torch.dtype) -> _KeyView:
        query = group.query[:, cut]
        seen = group.real[:, None, :].expand(-1, query.shape[1], -1)
        if self.source is None:
            seen = seen & visible_keys(self.batch, query[:, :, None], group.key[:, None, :], window)
        begin, end = _true_span(seen.any(0).any(0))
        # Few widths, as the matrix library keeps something for each.
        begin, end = begin // 16 * 16, min(-(-end // 16) * 16, seen.shape[2])
        hidden = ~seen[:, :, begin:end]
        low, high = _true_span(hidden.any(0).any(0))
        if low == high:
            return _KeyView(begin, end, end - begin, None)
        shape = (len(query), 1, 1, query.shape[1], end - begin - low)
        bias = torch.zeros(shape, dtype=dtype).masked_fill_(hidden[:, None, None, :, low:], -torch.inf)
        return _KeyView(begin, end, low, bias.to(self.device))


def _true_span(columns: Tensor) -> tuple[int, int]:
    """The first of the columns that are true, and the one after the last; (0, 0) where none is."""
    places = columns.nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _attend_by_autograd(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: _GatherPlan,
    views: list[list[_KeyView]],
    style: AttentionOptions,
    near: list[list[Tensor]] | None = None,
) -> Tensor:
    """[T·h, D], [T·g, D], [T·g, D] → [T·h, D]; autograd finds its own way back."""
    out = []
    added: Sequence[Sequence[Tensor | None]] = near or [[None] * len(blocks) for blocks in plan.blocks]
    for blocks, keys, seen, more in zip(plan.blocks, plan.keys, views, added, strict=True):
        k, v = _gather_by_head(key, keys, blocks[0]), _gather_by_head(value, keys, blocks[0])
        for block, view, one in zip(blocks, seen, more, strict=True):
            q = _gather_by_head(query, block.query, block) * style.scaling
            p = dropout(_probabilities(q, k, block, view, style, one), style.dropout)
            out.append(torch.bmm(p, v[:, view.begin : view.end]))
    return _scatter_rows(out, plan.answers)


class _BlockAttention(torch.autograd.Function):
    """The same for plain styles.

    With s = q kᵀ + bias, p = softmax(s), o = p v:
    ∂v = pᵀ ∂o, ∂p = ∂o vᵀ, ∂s = p · (∂p − Σ p ∂p), ∂q = ∂s k, ∂k = ∂sᵀ q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: _GatherPlan,
        views: list[list[_KeyView]],
        style: AttentionOptions,
        long: bool,
    ) -> Tensor:
        out, kept = [], []
        keep = not long and any(ctx.needs_input_grad)
        ctx.seeds, ctx.dropped = [], dropped_levels(style.dropout)
        ctx.keep = keep
        for blocks, keys, seen in zip(plan.blocks, plan.keys, views, strict=True):
            k, v = _gather_by_head(key, keys, blocks[0]), _gather_by_head(value, keys, blocks[0])
            for block, view in zip(blocks, seen, strict=True):
                q = _gather_by_head(query, block.query, block).mul_(style.scaling)
                p = _probabilities(q, k, block, view, style)
                if keep:
                    kept.append(p)
                if ctx.dropped:
                    number = draw_seed()
                    mask = make_keep_mask(number, p.shape, ctx.dropped, p.device)
                    if keep:
                        kept.append(mask)
                    else:
                        ctx.seeds.append(number)
                    p = apply_keep_mask(p, mask, ctx.dropped)
                out.append(torch.bmm(p, v[:, view.begin : view.end]))
        ctx.save_for_backward(query, key, value, *kept)
        ctx.plan, ctx.views, ctx.style = plan, views, style
        return _scatter_rows(out, plan.answers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        plan, style, seeds = ctx.plan, ctx.style, iter(ctx.seeds)
        at_hand = iter(kept)
        to_q, to_k, to_v = [], [], []
        for blocks, keys, seen in zip(plan.blocks, plan.keys, ctx.views, strict=True):
            k, v = _gather_by_head(key, keys, blocks[0]), _gather_by_head(value, keys, blocks[0])
            of_k, of_v = _GradientSum(k, len(blocks)), _GradientSum(v, len(blocks))
            for block, view in zip(blocks, seen, strict=True):
                q = _gather_by_head(query, block.query, block).mul_(style.scaling)
                g = _gather_by_head(gradients[0], block.query, block, block.padding)
                p = next(at_hand) if ctx.keep else _probabilities(q, k, block, view, style)
                to_p = torch.bmm(g, v[:, view.begin : view.end].mT)
                used = p
                if ctx.dropped:
                    mask = next(at_hand) if ctx.keep else make_keep_mask(next(seeds), p.shape, ctx.dropped, p.device)
                    used, to_p = apply_keep_mask(p, mask, ctx.dropped), apply_keep_mask(to_p, mask, ctx.dropped)
                of_v.add(torch.bmm(used.mT, g), view)
                to_scores = torch.ops.aten._softmax_backward_data(to_p, p, -1, p.dtype)
                of_k.add(torch.bmm(to_scores.mT, q), view)
                to_q.append(torch.bmm(to_scores, k[:, view.begin : view.end]).mul_(style.scaling))
            to_k.append(of_k.total)
            to_v.append(of_v.total)
        to_key, to_value = (_sum_key_gradients(parts, plan, like) for parts, like in ((to_k, key), (to_v, value)))
        return _scatter_rows(to_q, plan.answers), to_key, to_value, None, None, None, None


class _GradientSum:
    """The gradient [M·g, S, D] of a group's keys or values, of what its blocks give to those that they see."""

    def __init__(self, like: Tensor, blocks: int) -> None:
        self.like, self.blocks = like, blocks
        self.sum: Tensor | None = None

    def add(self, part: Tensor, view: _KeyView) -> None:
        if self.blocks == 1 and part.shape == self.like.shape:
            self.sum = part
            return
        if self.sum is None:
            self.sum = self.like.new_zeros(self.like.shape, dtype=torch.promote_types(part.dtype, torch.float32))
        self.sum[:, view.begin : view.end] += part

    @property
    def total(self) -> Tensor:
        assert self.sum is not None
        return self.sum.to(self.like.dtype)


def _gather_by_head(flat: Tensor, places: Tensor, block: _QueryBlock, padding: Tensor | None = None) -> Tensor:
    """[…, D] → [M·g, …, D]: the rows at `places`, those at `padding` set to 0."""
    rows = flat.index_select(0, places)
    if padding is not None:
        rows.index_fill_(0, padding, 0)
    return rows.view(block.sizes[0] * block.sizes[1], -1, flat.shape[-1])


def _probabilities(
    q: Tensor, k: Tensor, block: _QueryBlock, view: _KeyView, style: AttentionOptions, near: Tensor | None = None
) -> Tensor:
    """[M·g, r·L, D], [M·g, S, D] → [M·g, r·L, those of S in view]; `near` [M, h, L, those of S]."""
    members, groups, repeat, length = block.sizes
    scores = torch.bmm(q, k[:, view.begin : view.end].mT)
    if near is not None:
        scores = scores + near.reshape(scores.shape)
    if style.softcap is not None:
        scores = style.softcap * torch.tanh(scores / style.softcap)
    if view.bias is not None:
        scores.view(members, groups, repeat, length, -1)[..., view.start :] += view.bias
    if style.sinks is None:
        return scores.softmax(-1)
    sinks = style.sinks.view(1, groups, repeat, 1).expand(members, -1, -1, length).reshape(*scores.shape[:2], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


def _scatter_rows(parts: list[Tensor], places: Tensor) -> Tensor:
    """What blocks or groups gave, in the order of the flat sequence; zeros where a token is in none."""
    width = parts[0].shape[-1]
    rows = [part.reshape(-1, width) for part in parts]
    return torch.cat([*rows, rows[0].new_zeros(1, width)]).index_select(0, places)


def _sum_key_gradients(parts: list[Tensor], plan: _GatherPlan, like: Tensor) -> Tensor:
    """The gradient of keys or values in the order of the flat sequence, that of shared ones added up."""
    if plan.sources is not None:
        return _scatter_rows(parts, plan.sources)
    rows = torch.cat([part.flatten(0, 1) for part in parts])
    places, total = torch.cat(plan.keys), torch.zeros_like(like)
    if like.is_cuda:  # the faster of the two there, and the one that adds in one order
        return total.index_add_(0, places, rows)
    return total.scatter_add_(0, places[:, None].expand_as(rows), rows)


def _make_plan(
    groups: Sequence[_NodeGroup], heads: int, key_heads: int, lengths: tuple[int, int], *, shared: bool
) -> _GatherPlan:
    """lengths  tokens that ask, and that are seen
    shared   some are seen by several nodes
    """
    repeat = heads // key_heads
    head = torch.arange(heads).view(1, key_heads, repeat, 1)
    blocks = []
    for group in groups:
        blocks.append(list[_QueryBlock]())
        for cut in pairwise(group.cuts):
            query, read = group.query[:, slice(*cut)], group.read[:, slice(*cut)]
            places = query[:, None, None, :] * heads + head
            padding = (~read)[:, None, None, :].expand(places.shape).flatten().nonzero()[:, 0]
            sizes = (len(query), key_heads, repeat, query.shape[1])
            blocks[-1].append(_QueryBlock(places.flatten(), padding if len(padding) else None, sizes))
    keys = [(group.key[:, None, :] * key_heads + torch.arange(key_heads)[None, :, None]).flatten() for group in groups]
    answers = _first_occurrence([block.query for part in blocks for block in part], lengths[0] * heads)
    return _GatherPlan(blocks, keys, answers, None if shared else _first_occurrence(keys, lengths[1] * key_heads))


def _first_occurrence(places: Sequence[Tensor], length: int) -> Tensor:
    """[length]: where in `places`, all in a row, each number up to `length` stands first, or their end.

    Padding repeats what stands before it, so the first is the original.
    """
    numbers, first = np.unique(torch.cat(list(places)).numpy(), return_index=True)
    found = torch.full((length,), sum(map(len, places)))
    found[torch.from_numpy(numbers)] = torch.from_numpy(first)
    return found


def _group_nodes(own: Sequence[Ints], seen: Sequence[Ints]) -> list[list[int]]:
    """Node indices by group: longest first, a node joins the newest group while the padding stays `SMALL`."""
    length, keys = (np.array([len(span) for span in spans]) for spans in (own, seen))
    if (length == length[0]).all() and (keys == keys[0]).all():
        return [list(range(len(own)))]
    groups: list[list[int]] = []
    widest = longest = 0
    for node in np.lexsort((-keys, -length)):
        needed = max(widest, int(keys[node]))
        grown = len(groups[-1]) * longest * (needed - widest) if groups else 0
        padding = longest * needed - int(length[node] * keys[node])
        if not groups or grown + padding > MAX_PADDING_PAIRS:
            groups.append([])
            longest, needed = int(length[node]), int(keys[node])
        groups[-1].append(int(node))
        widest = needed
    return groups


def _pad_group(own: Sequence[Ints], seen: Sequence[Ints]) -> _NodeGroup:
    (query, read), (key, real) = _pad_spans(own), _pad_spans(seen)
    return _NodeGroup(query, key, read, real, _query_cuts(query.shape[1]))


def _query_cuts(length: int) -> list[int]:
    """Ends of even blocks of about `QUERIES`, all but the last multiples of 16."""
    size = -(-length // max(1, round(length / QUERY_BLOCK)))
    return [*range(0, length, -(-size // 16) * 16), length]


def _pad_spans(spans: Sequence[Ints]) -> tuple[Tensor, Tensor]:
    """(the spans as rows of the longest's width, each padded with its last index, which of that is not padding)."""
    lengths = np.array([len(span) for span in spans])
    width = round_length(int(lengths.max()), 16)
    padded = np.stack([np.pad(span, (0, width - len(span)), mode="edge") for span in spans])
    return torch.from_numpy(padded), torch.from_numpy(np.arange(width) < lengths[:, None])
