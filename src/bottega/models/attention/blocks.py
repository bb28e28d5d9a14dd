"""Attention in blocks of queries and the keys they can see, as batched matmuls.

The tokens of a node see their ancestors and themselves. Nodes of similar size form a group, padded to a rectangle,
whose keys are gathered once; its queries are computed `QUERY_BLOCK` at a time, each block with no more keys than its
last query sees. Without softcap and sinks this is an autograd function of its own, which keeps the probabilities, or
for a long node nothing but its inputs.
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
from bottega.models.attention.mask import AttentionOptions, TokenTree, relative_bias_index, visible_keys
from bottega.models.fast_dropout import LEVELS, apply_keep_mask, draw_seed, dropout, dropped_levels, make_keep_mask
from bottega.packing import round_length

# Query-key pairs of padding that are cheaper to compute than another group would be (a dozen kernel calls).
MAX_PADDING_PAIRS = 1024

# Queries of a node per block, approximately.
QUERY_BLOCK = 128

# Above so many query-key pairs in one node, probabilities are not kept but computed again in the backward.
MAX_KEPT_PAIRS = 1 << 20


@dataclass(frozen=True)
class _NodeGroup:
    """Nodes of similar size, padded to a rectangle.

    query         [M, L] flat indices; padding repeats the node's last token, and its result is not read
    key           [M, S] flat indices of the node's path; padding repeats the last and is masked
    query_is_real [M, L] False for padding
    key_is_real   [M, S] False for padding
    cuts          where the queries are cut into blocks, both ends included
    """

    query: Tensor
    key: Tensor
    query_is_real: Tensor
    key_is_real: Tensor
    cuts: Sequence[int]


@dataclass(frozen=True)
class _KeyView:
    """The keys `begin` to `end` of a group that a block of queries needs; `bias` masks columns from `masked_from` on.

    bias  [M, 1, 1, L, …]: 0 where visible, minus infinity elsewhere; None where every query sees all of them
    """

    begin: int
    end: int
    masked_from: int
    bias: Tensor | None


@dataclass(frozen=True)
class _QueryBlock:
    """Some queries of the nodes of a group, for a number of heads.

    query    [M·g·r·L] indices into the queries [T·h, D]
    padding  positions in `query` that are padding; None where there is none
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
    """Indices that gather queries and keys into blocks, and results back, for a number of heads.

    blocks   the query blocks of each group
    keys     [M·g·S] per group: indices into the keys [T·g, D]
    outputs  [T·h] indices into the concatenated outputs of all blocks, which end in a row of zeros
    sources  [T·g] the same for the gradients of keys and values; None if a key is in the paths of several nodes
    """

    blocks: list[list[_QueryBlock]]
    keys: list[Tensor]
    outputs: Tensor
    sources: Tensor | None

    def to(self, device: torch.device) -> _GatherPlan:
        sources = None if self.sources is None else self.sources.to(device)
        blocks = [[block.to(device) for block in blocks] for blocks in self.blocks]
        return _GatherPlan(blocks, [keys.to(device) for keys in self.keys], self.outputs.to(device), sources)


class BlockLayout:
    """The nodes of a batch, or the texts of an encoder, in groups; with `source`, cross attention of nodes to texts."""

    def __init__(self, batch: TokenTree, source: EncoderInput | None = None) -> None:
        # Planned with NumPy on the CPU, wherever it is computed; only the finished indices move to the device.
        self.device, batch = batch.tokens.device, batch.to("cpu")
        source = None if source is None else source.to("cpu")
        self.batch, self.source = batch, source
        nodes, key_tree = batch.nodes, source or batch
        queries = [np.arange(start, end) for start, end in zip(nodes.start, nodes.end, strict=True)]
        texts = None if source is None else source.text_of_node
        keys = [nodes.path(node) if texts is None else key_tree.nodes.path(texts[node]) for node in range(len(nodes))]
        groups = _group_nodes(queries, keys)
        self.groups = [
            _pad_group([queries[node] for node in group], [keys[node] for node in group]) for group in groups
        ]
        self.lengths = (len(batch.tokens), len(key_tree.tokens))
        self.has_shared_keys = sum(map(len, keys)) > len(np.unique(np.concatenate(keys)))
        # One of each per batch: almost every model has the same heads and few windows in all its layers.
        self._plans: dict[tuple[int, int], _GatherPlan] = {}
        self._views: dict[tuple[int | None, torch.dtype], list[list[_KeyView]]] = {}
        self._relative_biases: tuple[Tensor, list[list[Tensor]]] | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        plan = self.plan(query.shape[1], key.shape[1])
        views = self.views(options.window, query.dtype)
        q, k, v = (x[0].transpose(0, 1).reshape(-1, x.shape[-1]) for x in (query, key, value))  # [T·h, D], [T·g, D] …
        if options.relative_bias is not None:
            biases = self.relative_biases(options.relative_bias, views)
            out = _attend_by_autograd(q, k, v, plan, views, options, biases)
        elif options.softcap is None and options.sinks is None and dropped_levels(options.dropout) < LEVELS:
            out = cast(Any, _BlockAttention.apply)(q, k, v, plan, views, options, self.is_long)
        else:
            out = _attend_by_autograd(q, k, v, plan, views, options)
        return out.view(1, -1, query.shape[1], value.shape[-1])

    @property
    def is_long(self) -> bool:
        """Whether a node has too many query-key pairs to keep their probabilities."""
        return max(group.query.shape[1] * group.key.shape[1] for group in self.groups) > MAX_KEPT_PAIRS

    def plan(self, heads: int, key_heads: int) -> _GatherPlan:
        """The gather indices for so many heads."""
        if (heads, key_heads) not in self._plans:
            plan = _make_plan(self.groups, heads, key_heads, self.lengths, shared=self.has_shared_keys)
            self._plans[heads, key_heads] = plan.to(self.device)
        return self._plans[heads, key_heads]

    def views(self, window: int | None, dtype: torch.dtype) -> list[list[_KeyView]]:
        """For each block of each group, the keys it needs and their mask."""
        if (window, dtype) not in self._views:
            self._views[window, dtype] = [
                [self._view(group, slice(*cut), window, dtype) for cut in pairwise(group.cuts)] for group in self.groups
            ]
        return self._views[window, dtype]

    def relative_biases(self, table: Tensor, views: list[list[_KeyView]]) -> list[list[Tensor]]:
        """[M, h, L, S] for each block of each group: the relative bias added to its scores."""
        # T5 shares one table among all layers, so the lookup is made once per batch.
        if self._relative_biases is None or self._relative_biases[0] is not table:
            biases = [
                [
                    self._relative_bias(group, slice(*cut), view, table)
                    for cut, view in zip(pairwise(group.cuts), group_views, strict=True)
                ]
                for group, group_views in zip(self.groups, views, strict=True)
            ]
            self._relative_biases = table, biases
        return self._relative_biases[1]

    def _relative_bias(self, group: _NodeGroup, cut: slice, view: _KeyView, table: Tensor) -> Tensor:
        query, key = group.query[:, cut], group.key[:, view.begin : view.end]
        position = self.batch.position
        index = relative_bias_index(position[query][:, :, None], position[key][:, None, :], len(table) // 2)
        return embedding(index.to(self.device), table).permute(0, 3, 1, 2)

    def _view(self, group: _NodeGroup, cut: slice, window: int | None, dtype: torch.dtype) -> _KeyView:
        query = group.query[:, cut]
        visible = group.key_is_real[:, None, :].expand(-1, query.shape[1], -1)  # [M, L, S]
        if self.source is None:
            visible = visible & visible_keys(self.batch, query[:, :, None], group.key[:, None, :], window)
        begin, end = _true_span(visible.any(0).any(0))
        # Multiples of 16, as the matrix library compiles and keeps a kernel for each width.
        begin, end = begin // 16 * 16, min(-(-end // 16) * 16, visible.shape[2])
        hidden = ~visible[:, :, begin:end]
        first_masked, last_masked = _true_span(hidden.any(0).any(0))
        if first_masked == last_masked:
            return _KeyView(begin, end, end - begin, None)
        # A bias over the masked columns alone: those before are a prefix that all queries see.
        shape = (len(query), 1, 1, query.shape[1], end - begin - first_masked)
        bias = torch.zeros(shape, dtype=dtype).masked_fill_(hidden[:, None, None, :, first_masked:], -torch.inf)
        return _KeyView(begin, end, first_masked, bias.to(self.device))


def _true_span(columns: Tensor) -> tuple[int, int]:
    """Index of the first true column, and one past the last; (0, 0) where none is."""
    indices = columns.nonzero()
    return (int(indices[0]), int(indices[-1]) + 1) if len(indices) else (0, 0)


def _attend_by_autograd(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: _GatherPlan,
    views: list[list[_KeyView]],
    options: AttentionOptions,
    relative_biases: list[list[Tensor]] | None = None,
) -> Tensor:
    """[T·h, D], [T·g, D], [T·g, D] → [T·h, D], differentiated by autograd."""
    outputs = []
    biases: Sequence[Sequence[Tensor | None]] = relative_biases or [[None] * len(blocks) for blocks in plan.blocks]
    for blocks, keys, group_views, group_biases in zip(plan.blocks, plan.keys, views, biases, strict=True):
        k, v = _gather_by_head(key, keys, blocks[0]), _gather_by_head(value, keys, blocks[0])  # [M·g, S, D]
        for block, view, bias in zip(blocks, group_views, group_biases, strict=True):
            q = _gather_by_head(query, block.query, block) * options.scaling  # [M·g, r·L, D]
            p = dropout(_probabilities(q, k, block, view, options, bias), options.dropout)
            outputs.append(torch.bmm(p, v[:, view.begin : view.end]))
    return _scatter_rows(outputs, plan.outputs)


class _BlockAttention(torch.autograd.Function):
    """The same, without softcap, sinks and relative bias, with a backward that keeps less.

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
        options: AttentionOptions,
        is_long: bool,
    ) -> Tensor:
        outputs, kept = [], []
        keep = not is_long and any(ctx.needs_input_grad)
        ctx.seeds, ctx.dropped = [], dropped_levels(options.dropout)
        ctx.keep = keep
        for blocks, keys, group_views in zip(plan.blocks, plan.keys, views, strict=True):
            k, v = _gather_by_head(key, keys, blocks[0]), _gather_by_head(value, keys, blocks[0])  # [M·g, S, D]
            for block, view in zip(blocks, group_views, strict=True):
                q = _gather_by_head(query, block.query, block).mul_(options.scaling)  # [M·g, r·L, D]
                p = _probabilities(q, k, block, view, options)  # [M·g, r·L, keys in view]
                if keep:
                    kept.append(p)
                if ctx.dropped:
                    # One seed per block, so that a backward that kept no mask draws the same again.
                    seed = draw_seed()
                    mask = make_keep_mask(seed, p.shape, ctx.dropped, p.device)
                    if keep:
                        kept.append(mask)
                    else:
                        ctx.seeds.append(seed)
                    p = apply_keep_mask(p, mask, ctx.dropped)
                outputs.append(torch.bmm(p, v[:, view.begin : view.end]))
        ctx.save_for_backward(query, key, value, *kept)
        ctx.plan, ctx.views, ctx.options = plan, views, options
        return _scatter_rows(outputs, plan.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        plan, options, seeds = ctx.plan, ctx.options, iter(ctx.seeds)
        kept_tensors = iter(kept)  # in the order of the forward: p, and its mask under dropout
        d_queries, d_keys, d_values = [], [], []
        for blocks, keys, group_views in zip(plan.blocks, plan.keys, ctx.views, strict=True):
            k, v = _gather_by_head(key, keys, blocks[0]), _gather_by_head(value, keys, blocks[0])
            d_k, d_v = _GradientSum(k, len(blocks)), _GradientSum(v, len(blocks))
            for block, view in zip(blocks, group_views, strict=True):
                q = _gather_by_head(query, block.query, block).mul_(options.scaling)
                # Padding repeats a real query: without zeros its gradient would count again.
                d_out = _gather_by_head(gradients[0], block.query, block, block.padding)
                p = next(kept_tensors) if ctx.keep else _probabilities(q, k, block, view, options)
                d_p = torch.bmm(d_out, v[:, view.begin : view.end].mT)
                p_dropped = p
                if ctx.dropped:
                    if ctx.keep:
                        mask = next(kept_tensors)
                    else:
                        mask = make_keep_mask(next(seeds), p.shape, ctx.dropped, p.device)
                    p_dropped, d_p = apply_keep_mask(p, mask, ctx.dropped), apply_keep_mask(d_p, mask, ctx.dropped)
                d_v.add(torch.bmm(p_dropped.mT, d_out), view)
                d_scores = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
                d_k.add(torch.bmm(d_scores.mT, q), view)
                d_queries.append(torch.bmm(d_scores, k[:, view.begin : view.end]).mul_(options.scaling))
            d_keys.append(d_k.total)
            d_values.append(d_v.total)
        d_key, d_value = (_sum_key_gradients(parts, plan, x) for parts, x in ((d_keys, key), (d_values, value)))
        return _scatter_rows(d_queries, plan.outputs), d_key, d_value, None, None, None, None


class _GradientSum:
    """The gradient [M·g, S, D] of a group's keys or values, summed over the blocks that see them."""

    def __init__(self, like: Tensor, blocks: int) -> None:
        self.like, self.blocks = like, blocks
        self.sum: Tensor | None = None

    def add(self, gradient: Tensor, view: _KeyView) -> None:
        if self.blocks == 1 and gradient.shape == self.like.shape:
            self.sum = gradient
            return
        if self.sum is None:
            # float32: a key of a long node gets a summand from every block after it.
            self.sum = self.like.new_zeros(self.like.shape, dtype=torch.promote_types(gradient.dtype, torch.float32))
        self.sum[:, view.begin : view.end] += gradient

    @property
    def total(self) -> Tensor:
        assert self.sum is not None
        return self.sum.to(self.like.dtype)


def _gather_by_head(flat: Tensor, index: Tensor, block: _QueryBlock, padding: Tensor | None = None) -> Tensor:
    """[…, D] → [M·g, …, D]: the rows at `index`; those at `padding` are set to 0."""
    rows = flat.index_select(0, index)
    if padding is not None:
        rows.index_fill_(0, padding, 0)
    return rows.view(block.sizes[0] * block.sizes[1], -1, flat.shape[-1])


def _probabilities(
    q: Tensor,
    k: Tensor,
    block: _QueryBlock,
    view: _KeyView,
    options: AttentionOptions,
    relative_bias: Tensor | None = None,
) -> Tensor:
    """[M·g, r·L, D], [M·g, S, D] → [M·g, r·L, keys in view]; `relative_bias` [M, h, L, keys in view]."""
    members, key_heads, repeat, length = block.sizes
    scores = torch.bmm(q, k[:, view.begin : view.end].mT)
    if relative_bias is not None:
        scores = scores + relative_bias.reshape(scores.shape)
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if view.bias is not None:
        scores.view(members, key_heads, repeat, length, -1)[..., view.masked_from :] += view.bias
    if options.sinks is None:
        return scores.softmax(-1)
    sinks = options.sinks.view(1, key_heads, repeat, 1).expand(members, -1, -1, length).reshape(*scores.shape[:2], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


def _scatter_rows(parts: list[Tensor], index: Tensor) -> Tensor:
    """The results of blocks or groups in the order of the flat sequence; zeros for a token that is in none."""
    width = parts[0].shape[-1]
    rows = [part.reshape(-1, width) for part in parts]
    # A gather by the inverse index, not a scatter: each token is written once, so no two writes can race.
    return torch.cat([*rows, rows[0].new_zeros(1, width)]).index_select(0, index)


def _sum_key_gradients(parts: list[Tensor], plan: _GatherPlan, like: Tensor) -> Tensor:
    """The gradient of keys or values in the order of the flat sequence; that of a shared key is a sum over nodes."""
    if plan.sources is not None:
        return _scatter_rows(parts, plan.sources)
    rows = torch.cat([part.flatten(0, 1) for part in parts])
    index, total = torch.cat(plan.keys), torch.zeros_like(like)
    if like.is_cuda:  # the faster of the two there, and the one that adds in a fixed order
        return total.index_add_(0, index, rows)
    return total.scatter_add_(0, index[:, None].expand_as(rows), rows)


def _make_plan(
    groups: Sequence[_NodeGroup], heads: int, key_heads: int, lengths: tuple[int, int], *, shared: bool
) -> _GatherPlan:
    """The gather indices of all groups.

    lengths  number of query tokens and of key tokens
    shared   whether several nodes see the same key
    """
    repeat = heads // key_heads
    head = torch.arange(heads).view(1, key_heads, repeat, 1)
    blocks = []
    for group in groups:
        blocks.append(list[_QueryBlock]())
        for cut in pairwise(group.cuts):
            query, is_real = group.query[:, slice(*cut)], group.query_is_real[:, slice(*cut)]  # [M, L]
            index = query[:, None, None, :] * heads + head  # [M, g, r, L]
            padding = (~is_real)[:, None, None, :].expand(index.shape).flatten().nonzero()[:, 0]
            sizes = (len(query), key_heads, repeat, query.shape[1])
            blocks[-1].append(_QueryBlock(index.flatten(), padding if len(padding) else None, sizes))
    keys = [(group.key[:, None, :] * key_heads + torch.arange(key_heads)[None, :, None]).flatten() for group in groups]
    outputs = _first_occurrence([block.query for group_blocks in blocks for block in group_blocks], lengths[0] * heads)
    return _GatherPlan(blocks, keys, outputs, None if shared else _first_occurrence(keys, lengths[1] * key_heads))


def _first_occurrence(indices: Sequence[Tensor], length: int) -> Tensor:
    """[length]: where each number below `length` first occurs in the concatenated `indices`, or their total length."""
    # Padding repeats an index that stands before it, so the first occurrence is the original.
    numbers, first = np.unique(torch.cat(list(indices)).numpy(), return_index=True)
    result = torch.full((length,), sum(map(len, indices)))
    result[torch.from_numpy(numbers)] = torch.from_numpy(first)
    return result


def _group_nodes(queries: Sequence[Ints], keys: Sequence[Ints]) -> list[list[int]]:
    """Indices of nodes by group: longest first, a node joins the last group while padding stays `MAX_PADDING_PAIRS`."""
    query_lengths, key_lengths = (np.array([len(index) for index in indices]) for indices in (queries, keys))
    if (query_lengths == query_lengths[0]).all() and (key_lengths == key_lengths[0]).all():
        return [list(range(len(queries)))]
    groups: list[list[int]] = []
    group_keys = group_queries = 0  # the rectangle of the last group
    for node in np.lexsort((-key_lengths, -query_lengths)):
        needed_keys = max(group_keys, int(key_lengths[node]))
        # Pairs computed in vain: in the members, as the rectangle grows wider, and in the node itself.
        added_to_members = len(groups[-1]) * group_queries * (needed_keys - group_keys) if groups else 0
        added_to_node = group_queries * needed_keys - int(query_lengths[node] * key_lengths[node])
        if not groups or added_to_members + added_to_node > MAX_PADDING_PAIRS:
            groups.append([])
            group_queries, needed_keys = int(query_lengths[node]), int(key_lengths[node])
        groups[-1].append(int(node))
        group_keys = needed_keys
    return groups


def _pad_group(queries: Sequence[Ints], keys: Sequence[Ints]) -> _NodeGroup:
    (query, query_is_real), (key, key_is_real) = _pad_spans(queries), _pad_spans(keys)
    return _NodeGroup(query, key, query_is_real, key_is_real, _query_cuts(query.shape[1]))


def _query_cuts(length: int) -> list[int]:
    """Bounds of even blocks of about `QUERY_BLOCK`; all sizes but the last are multiples of 16."""
    size = -(-length // max(1, round(length / QUERY_BLOCK)))
    return [*range(0, length, -(-size // 16) * 16), length]


def _pad_spans(spans: Sequence[Ints]) -> tuple[Tensor, Tensor]:
    """([n, longest] spans, each padded with its last index; [n, longest] False for that padding)."""
    lengths = np.array([len(span) for span in spans])
    width = round_length(int(lengths.max()), 16)
    padded = np.stack([np.pad(span, (0, width - len(span)), mode="edge") for span in spans])
    return torch.from_numpy(padded), torch.from_numpy(np.arange(width) < lengths[:, None])
