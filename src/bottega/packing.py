"""Token rows → prefix tree → Batch, padded to one of few lengths; and the split of an update into micro-batches.

Rows are laid out in lexicographic order of their tokens. The prefix a row shares with its predecessor is then the
longest it shares with any earlier row, and the layout is a depth-first walk of the radix tree. Bidirectional rows share
nothing, since the state of each token depends on what follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bottega.batch import Batch, EncoderInput, Example, Ints, Nodes, Row

# The shortest common prefix that is shared. A tree node costs more than computing a few tokens twice.
MIN_SHARED = 8

# How much larger than their mean micro-batches may be when an update is split evenly.
EVEN_MARGIN = 1.1

# Leading binary digits of a length that stay free when it is rounded up, beside the first: short lengths become a
# multiple of a few, those from 256 on grow by 3 % at most, and there are 32 lengths between 1,024 and 2,048.
LENGTH_BITS = 5

# Tokens per block of FlexAttention, which computes whole blocks only.
FLEX_BLOCK = 128

AnyTokenTree = TypeVar("AnyTokenTree", Batch, EncoderInput)


def pack(examples: Sequence[Example], *, share: bool = True, min_shared: int = MIN_SHARED) -> Batch:
    """One batch with every row of `examples`.

    share       lay out common prefixes once; otherwise each row is a node of its own with all its tokens, for models
                that compute one row at a time
    min_shared  the shortest prefix to share, in tokens
    """
    rows = [row for example in examples for row in example.rows]
    order, has_source = _lexicographic_order(rows), rows[0].source is not None
    # A decoder's token depends on the row's source, so rows of an encoder–decoder share their source at most.
    # Without sharing rows are not trimmed either: some models (Doge, ProphetNet) compute a row differently if it is a
    # token shorter, although no token attends to the last one.
    tree = _TreeBuilder(min_shared if share and not has_source else None, whole=not share)
    predictions = [len(row.at) for row in rows]
    return Batch(
        **_lay_out(rows, order, tree),
        label=torch.from_numpy(np.concatenate([row.label for row in rows])),  # [N]
        weight=torch.from_numpy(np.concatenate([row.weight for row in rows])),  # [N]
        row=torch.from_numpy(np.repeat(np.arange(len(rows)), predictions)),  # [N]
        example=torch.from_numpy(np.repeat(np.arange(len(examples)), [len(example.rows) for example in examples])),
        columns=_concatenate_columns(rows),
        ids=tuple(example.id for example in examples),
        tokens_real=sum(example.tokens for example in examples),
        # In the order of the nodes, which for rows with a source is one node per row.
        source=_encoder_input([rows[index] for index in order], share=share) if has_source else None,
    )


def _lay_out(rows: Sequence[Row], order: Sequence[int], tree: _TreeBuilder) -> dict[str, Any]:
    """The fields of a batch that say where tokens lie, of rows that are put into the tree in this order."""
    flat: list[Ints] = [np.empty(0, np.int64)] * len(rows)  # for each row: [t] flat indices of its tokens
    for index in order:
        flat[index] = tree.insert(rows[index])
    nodes, both_ways = tree.nodes()
    first, last = _visibility(nodes, both_ways)
    return {
        "tokens": torch.from_numpy(np.concatenate(tree.tokens)),  # [T]
        "position": torch.from_numpy(np.concatenate(tree.position)),  # [T]
        "first": torch.from_numpy(first),  # [T]
        "last": torch.from_numpy(last),  # [T]
        # Predictions stay in the order of the rows, whatever the order in which their tokens are laid out.
        "at": torch.from_numpy(np.concatenate([where[row.at] for row, where in zip(rows, flat, strict=True)])),  # [N]
        "nodes": nodes,
    }


def repack(batch: Batch, change: Callable[[Row], Ints], *, min_shared: int = MIN_SHARED) -> Batch:
    """A batch of causal rows with other token ids; what rows then begin with alike is laid out once.

    change  a row with its t tokens up to its last prediction → the ids [t] to take instead
    """
    tokens, at, nodes = batch.tokens.cpu().numpy(), batch.at.cpu().numpy(), batch.nodes
    changes = np.flatnonzero(np.diff(batch.row.cpu().numpy())) + 1
    rows = list[Row]()
    for own in np.split(at, changes):  # the predictions of a row
        end = int(own.max())
        path = nodes.path(int(np.searchsorted(nodes.start, end, side="right")) - 1)
        path = path[path <= end]
        row = Row(tokens[path], np.searchsorted(path, own), own, np.ones(len(own), np.float32))
        rows.append(replace(row, tokens=change(row)))
    fields = _lay_out(rows, _lexicographic_order(rows), _TreeBuilder(min_shared))
    return replace(batch, **fields).to(str(batch.tokens.device))


def _encoder_input(rows: Sequence[Row], *, share: bool) -> EncoderInput:
    """The sources of rows, given in the order of their nodes; with `share`, equal neighbours become one text."""
    texts, text_of_node = list[Ints](), list[int]()
    for row in rows:
        assert row.source is not None
        if not (share and texts and np.array_equal(texts[-1], row.source)):
            texts.append(row.source)
        text_of_node.append(len(texts) - 1)
    end = np.cumsum([len(text) for text in texts])  # [texts]
    nodes = Nodes(end - [len(text) for text in texts], end, np.full(len(texts), -1))
    first, last = _visibility(nodes, np.ones(len(texts), bool))
    return EncoderInput(
        tokens=torch.from_numpy(np.concatenate(texts)),  # [S]
        position=torch.from_numpy(np.concatenate([np.arange(len(text)) for text in texts])),  # [S]
        first=torch.from_numpy(first),  # [S]
        last=torch.from_numpy(last),  # [S]
        nodes=nodes,
        text_of_node=np.array(text_of_node),  # [M]
    )


def split_into_micro_batches(
    examples: Sequence[Example], max_tokens: int, *, share: bool = True, min_shared: int = MIN_SHARED
) -> list[list[Example]]:
    """The examples of an update in groups of at most `max_tokens` tokens each, counted after sharing.

    Neighbours in token order stay together, so that rows with a common prefix meet in one micro-batch. An example is
    never split: one with more than `max_tokens` becomes a micro-batch of its own.
    """
    ordered = sorted(examples, key=lambda example: _sort_key(example.rows[0]))
    threshold = min_shared if share else None
    counts = [_token_count(example, threshold) for example in ordered]
    saved = [
        0,
        *(_shared_length(before.rows[-1], after.rows[0], threshold) for before, after in pairwise(ordered)),
    ]
    starts = _group_starts(counts, saved, max_tokens)
    # The largest group sets the memory peak: groups of about the mean size peak lower than full ones and a rest. The
    # smaller limit is used only if it needs no further group.
    even_size = int(EVEN_MARGIN * (sum(counts) - sum(saved)) / len(starts)) + 1
    even_starts = _group_starts(counts, saved, min(max_tokens, even_size))
    if len(even_starts) == len(starts):
        starts = even_starts
    return [list(ordered[start:end]) for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True)]


def _group_starts(counts: Sequence[int], saved: Sequence[int], max_tokens: int) -> list[int]:
    """The index of each group's first example, when groups are filled in order up to `max_tokens`.

    counts  tokens of each example by itself
    saved   tokens each example shares with the one before, if both are in one group
    """
    starts, used = list[int](), 0
    for index, (count, shared) in enumerate(zip(counts, saved, strict=True)):
        if not starts or used + count - shared > max_tokens:
            starts.append(index)
            used = count
        else:
            used += count - shared
    return starts


def _token_count(example: Example, min_shared: int | None) -> int:
    """Tokens of the example by itself: an upper bound, since in a batch its rows are sorted and may share more."""
    shared = (_shared_length(before, after, min_shared) for before, after in pairwise(example.rows))
    whole = min_shared is None
    return sum(len(_input_tokens(row, whole=whole)) + row.source_length for row in example.rows) - sum(shared)


def _input_tokens(row: Row, *, whole: bool) -> Ints:
    """The tokens of a row that are laid out: all if `whole`, otherwise those a forward pass needs."""
    # The decoder of an encoder–decoder is always trimmed: its last token is a label and never an input.
    return row.tokens if whole and row.source is None else row.computed_tokens


def _shared_length(before: Row, after: Row, min_shared: int | None) -> int:
    """The number of tokens two rows share: a prefix of at least `min_shared` tokens, or an equal source.

    min_shared  None if nothing is shared
    """
    if before.source is not None:
        same = min_shared is not None and after.source is not None and np.array_equal(before.source, after.source)
        return len(before.source) if same else 0
    if min_shared is None or before.both_ways or after.both_ways:
        return 0
    # Most neighbours already differ here, and this comparison takes a tenth of the time of the next.
    if before.tokens[:min_shared].tobytes() != after.tokens[:min_shared].tobytes():
        return 0
    length = common_prefix_length(before.computed_tokens, after.computed_tokens)
    return length if length >= min_shared else 0


def _sort_key(row: Row) -> bytes:
    # Bytes compare in one call of C, and big-endian they compare as the numbers do.
    source = b"" if row.source is None else row.source.astype(">u4").tobytes()
    return source + row.computed_tokens.astype(">u4").tobytes()


def _lexicographic_order(rows: Sequence[Row]) -> list[int]:
    keys = [_sort_key(row) for row in rows]
    return sorted(range(len(rows)), key=keys.__getitem__)


def common_prefix_length(before: Ints, after: Ints) -> int:
    """The number of tokens that two rows begin with alike."""
    length = min(len(before), len(after))
    differs = before[:length] != after[:length]
    # argmax of booleans is the first True; without any it would be 0.
    return int(differs.argmax()) if differs.any() else length


@dataclass
class _TreeBuilder:
    """Builds the prefix tree of rows inserted in lexicographic order.

    min_shared   the shortest prefix to share, None for none
    whole        lay rows out with all their tokens
    start end parent both_ways   one entry per node, in the order of creation
    tokens position   one array per row: its tokens that no earlier row has, and their depths
    size         tokens so far
    last_row     the row inserted last
    path         the nodes of that row, from the root
    flat         [t] flat indices of that row's tokens
    """

    min_shared: int | None
    whole: bool = False
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    both_ways: list[bool] = field(default_factory=list)
    tokens: list[Ints] = field(default_factory=list)
    position: list[Ints] = field(default_factory=list)
    size: int = 0
    last_row: Row | None = None
    path: list[int] = field(default_factory=list)
    flat: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def insert(self, row: Row) -> Ints:
        """Add a row; returns the flat index of each of its tokens, [t]."""
        shared = _shared_length(self.last_row, row, self.min_shared) if self.last_row is not None else 0
        self._cut_path(shared)
        tokens = _input_tokens(row, whole=self.whole)
        added = len(tokens) - shared
        # A row equal to the one before, or a prefix of it, adds no tokens and needs no node.
        if added:
            self._add_node(self.size, self.size + added, self.path[-1] if self.path else -1, row.both_ways)
            self.path.append(len(self.start) - 1)
        self.tokens.append(tokens[shared:])
        self.position.append(np.arange(shared, len(tokens)))
        self.flat = np.concatenate([self.flat[:shared], np.arange(self.size, self.size + added)])
        self.size += added
        self.last_row = row
        return self.flat

    def nodes(self) -> tuple[Nodes, NDArray[np.bool_]]:
        """The nodes in depth-first order, and which of them are bidirectional, [M]."""
        # Tokens are laid out depth first, but a split adds the lower half of a node at the end of the lists.
        order = np.argsort(self.start)
        # The new index of each old one. One entry more, so that a root's parent -1 picks the last and stays -1.
        rank = np.empty(len(order) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(order)), -1
        start, end, parent = (np.array(column, np.int64)[order] for column in (self.start, self.end, self.parent))
        return Nodes(start, end, rank[parent]), np.array(self.both_ways, bool)[order]

    def _cut_path(self, depth: int) -> None:
        """Shorten `path` to its first `depth` tokens; a node that the cut falls into is split."""
        node_depth = 0
        for level, node in enumerate(self.path):
            length = self.end[node] - self.start[node]
            if node_depth + length > depth:
                inside = depth - node_depth
                if inside:
                    self._split(node, self.start[node] + inside)
                self.path = self.path[: level + (1 if inside else 0)]
                return
            node_depth += length

    def _split(self, node: int, cut: int) -> None:
        """Split a node at flat index `cut`; `node` becomes the upper half, and the lower half its child."""
        # Children of the node were laid out behind all of its tokens, so they now belong to the lower half.
        self._add_node(cut, self.end[node], node, self.both_ways[node])
        lower = len(self.start) - 1
        self.parent[:lower] = [lower if parent == node else parent for parent in self.parent[:lower]]
        self.end[node] = cut

    def _add_node(self, start: int, end: int, parent: int, both_ways: bool) -> None:
        self.start.append(start)
        self.end.append(end)
        self.parent.append(parent)
        self.both_ways.append(both_ways)


def _visibility(nodes: Nodes, both_ways: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """(`first`, `last`) of every token, [T] each: token k is visible to queries `first[k]` up to before `last[k]`.

    A causal token is visible from itself to the end of its node's subtree, a bidirectional one in its whole node.
    """
    subtree_end = nodes.end.copy()  # [M]
    # Children come after their parents, so going backwards each subtree is complete before its parent reads it.
    for node in range(len(nodes) - 1, -1, -1):
        if nodes.parent[node] >= 0:
            subtree_end[nodes.parent[node]] = max(subtree_end[nodes.parent[node]], subtree_end[node])
    lengths = nodes.end - nodes.start
    last = np.repeat(subtree_end, lengths)  # [T]
    first = np.where(np.repeat(both_ways, lengths), np.repeat(nodes.start, lengths), np.arange(len(last)))  # [T]
    return first, last


def _concatenate_columns(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    # All rows of a batch come from one objective and have the same columns; [N] or [R] each.
    names = rows[0].columns.keys()
    return {name: torch.from_numpy(np.concatenate([row.columns[name] for row in rows])) for name in names}


def put_before(batch: Batch, ids: Sequence[int], *, shared: bool) -> Batch:
    """The batch of causal rows with the same tokens before each of them, which nothing is predicted at.

    shared  they are computed once, as the root of all trees; else once for each tree
    """
    if not ids:
        return batch
    count, length, nodes = len(ids), len(batch.tokens), batch.nodes
    # How many tokens stand before each tree: after the first root, or in front of each.
    roots = [0] if shared else nodes.start[nodes.parent < 0].tolist()
    device = batch.tokens.device
    starts = torch.tensor(roots, device=device)
    shift = count * torch.searchsorted(starts, torch.arange(length, device=device), right=True)  # [T]
    place = torch.arange(length, device=device) + shift  # [T] where each token goes
    heads = (starts + count * torch.arange(len(roots), device=device))[:, None] + torch.arange(count, device=device)
    heads = heads.flatten()  # [roots · count] where the new tokens go
    ends = torch.tensor([*roots[1:], length], device=device)
    tree_end = (ends + count * torch.arange(1, len(roots) + 1, device=device)).repeat_interleave(count)

    def spread(new: Tensor, old: Tensor) -> Tensor:
        joined = torch.empty(len(heads) + length, dtype=old.dtype, device=device)
        joined[heads], joined[place] = new.to(old.dtype), old
        return joined

    tokens = torch.tensor(ids, device=device).repeat(len(roots))
    position = torch.arange(count, device=device).repeat(len(roots))
    return replace(
        batch,
        tokens=spread(tokens, batch.tokens),
        position=spread(position, batch.position + count),
        first=spread(heads, batch.first + shift),
        last=spread(tree_end, batch.last + shift),
        at=place[batch.at],
        nodes=_nodes_after(nodes, np.array(roots), count, shared=shared),
    )


def _nodes_after(nodes: Nodes, roots: Ints, count: int, *, shared: bool) -> Nodes:
    """The nodes once `count` tokens stand before each tree: a root of their own, or the beginning of each root."""
    shift = count * np.searchsorted(roots, nodes.start, side="right")
    if not shared:
        is_root = nodes.parent < 0
        return Nodes(nodes.start + shift - np.where(is_root, count, 0), nodes.end + shift, nodes.parent)
    start, end = (np.concatenate([[edge], values + shift]) for edge, values in ((0, nodes.start), (count, nodes.end)))
    return Nodes(start, end, np.concatenate([[-1], np.where(nodes.parent < 0, 0, nodes.parent + 1)]))


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
