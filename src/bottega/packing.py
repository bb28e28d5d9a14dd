"""Rows → prefix tree → Batch, and the division of an update into micro-batches.

Rows are laid out in lexicographic order of their tokens; each row then shares with its predecessor exactly their
common prefix, which makes the layout a depth-first walk of the radix tree. Bidirectional rows cannot share (a
token's state depends on what follows) and stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Batch, EncoderInput, Example, Ints, Nodes, Row

SHARE_AT_LEAST = 8
"""A shorter common prefix is repeated: a tree node costs more than recomputing a few tokens."""


def pack(examples: Sequence[Example], *, share: bool = True, share_at_least: int = SHARE_AT_LEAST) -> Batch:
    """One batch holding every row of `examples`.

    With `share=False` each row is a node of its own, for models that only see one row at a time. It is then whole: of
    some models a token more changes what they make of those before it, though they do not look at it.
    """
    rows = [row for example in examples for row in example.rows]
    order, sourced = _order(rows), rows[0].source is not None
    # What a token is depends on its source too, so behind one nothing is shared but the source itself.
    tree = _Tree(share_at_least if share and not sourced else None, whole=not share)
    flat: list[Ints] = [np.empty(0, np.int64)] * len(rows)
    for index in order:
        flat[index] = tree.insert(rows[index])
    nodes, both_ways = tree.nodes()
    first, last = _interval(nodes, both_ways)
    predictions = [len(row.at) for row in rows]
    return Batch(
        tokens=torch.from_numpy(np.concatenate(tree.tokens)),
        position=torch.from_numpy(np.concatenate(tree.position)),
        first=torch.from_numpy(first),
        last=torch.from_numpy(last),
        at=torch.from_numpy(np.concatenate([where[row.at] for row, where in zip(rows, flat, strict=True)])),
        label=torch.from_numpy(np.concatenate([row.label for row in rows])),
        weight=torch.from_numpy(np.concatenate([row.weight for row in rows])),
        row=torch.from_numpy(np.repeat(np.arange(len(rows)), predictions)),
        example=torch.from_numpy(np.repeat(np.arange(len(examples)), [len(example.rows) for example in examples])),
        columns=_columns(rows),
        ids=tuple(example.id for example in examples),
        nodes=nodes,
        tokens_real=sum(example.tokens for example in examples),
        source=_source([rows[index] for index in order], share=share) if sourced else None,
    )


def _source(rows: Sequence[Row], *, share: bool) -> EncoderInput:
    """The sources of rows in the order of their nodes, one a row; equal neighbours are one with `share`."""
    texts, of = list[Ints](), list[int]()
    for row in rows:
        assert row.source is not None
        if not (share and texts and np.array_equal(texts[-1], row.source)):
            texts.append(row.source)
        of.append(len(texts) - 1)
    end = np.cumsum([len(text) for text in texts])
    nodes = Nodes(end - [len(text) for text in texts], end, np.full(len(texts), -1))
    first, last = _interval(nodes, np.ones(len(texts), bool))
    return EncoderInput(
        tokens=torch.from_numpy(np.concatenate(texts)),
        position=torch.from_numpy(np.concatenate([np.arange(len(text)) for text in texts])),
        first=torch.from_numpy(first),
        last=torch.from_numpy(last),
        nodes=nodes,
        of=np.array(of),
    )


def divide(
    examples: Sequence[Example], tokens: int, *, share: bool = True, share_at_least: int = SHARE_AT_LEAST
) -> list[list[Example]]:
    """The examples of an update in micro-batches of at most `tokens` tokens after sharing.

    Neighbours in token order go together, so rows that share a prefix meet in one micro-batch. An example is
    never divided: one longer than `tokens` gets a micro-batch of its own.
    """
    ordered = sorted(examples, key=lambda example: _key(example.rows[0]))
    floor = share_at_least if share else None
    alone = [_cost(example, floor) for example in ordered]
    saved = [0, *(_shared(one.rows[-1], other.rows[0], floor) for one, other in pairwise(ordered))]
    groups = _fill(alone, saved, tokens)
    # Even parts keep the largest, which sets the memory peak, small.
    even = _fill(alone, saved, min(tokens, int(1.1 * (sum(alone) - sum(saved)) / len(groups)) + 1))
    starts = even if len(even) == len(groups) else groups
    return [list(ordered[start:end]) for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True)]


def _fill(alone: Sequence[int], saved: Sequence[int], tokens: int) -> list[int]:
    """Where each group starts: an example goes behind its neighbour, of which it saves so much, as long as it fits."""
    starts, used = list[int](), 0
    for place, (cost, less) in enumerate(zip(alone, saved, strict=True)):
        if not starts or used + cost - less > tokens:
            starts.append(place)
            used = cost
        else:
            used += cost - less
    return starts


def _cost(example: Example, share_at_least: int | None) -> int:
    """Tokens of the example by itself: an upper bound, since its rows may share more in another order."""
    shared = (_shared(one, other, share_at_least) for one, other in pairwise(example.rows))
    return sum(len(_run(row, share_at_least is None)) + row.read for row in example.rows) - sum(shared)


def _run(row: Row, whole: bool) -> Ints:
    """The tokens that a model is run on; a decoder behind an encoder never reads its last label."""
    return row.tokens if whole and row.source is None else row.computed


def _shared(one: Row, other: Row, share_at_least: int | None) -> int:
    """How many tokens two rows share: a prefix, 0 where it is not worth a node; or their source."""
    if one.source is not None:
        same = share_at_least is not None and other.source is not None and np.array_equal(one.source, other.source)
        return len(one.source) if same else 0
    if share_at_least is None or one.both_ways or other.both_ways:
        return 0
    if one.tokens[:share_at_least].tobytes() != other.tokens[:share_at_least].tobytes():
        return 0  # most neighbours, found out in a tenth of the time
    length = _common_prefix(one.computed, other.computed)
    return length if length >= share_at_least else 0


def _key(row: Row) -> bytes:
    # Big-endian bytes compare as the numbers do.
    read = b"" if row.source is None else row.source.astype(">u4").tobytes()
    return read + row.computed.astype(">u4").tobytes()


def _order(rows: Sequence[Row]) -> list[int]:
    keys = [_key(row) for row in rows]
    return sorted(range(len(rows)), key=keys.__getitem__)


def _common_prefix(one: Ints, other: Ints) -> int:
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


@dataclass
class _Tree:
    """Grows by rows in lexicographic order; `start end parent both_ways` have an entry a node."""

    share_at_least: int | None
    whole: bool = False
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    both_ways: list[bool] = field(default_factory=list)
    tokens: list[Ints] = field(default_factory=list)
    position: list[Ints] = field(default_factory=list)
    size: int = 0
    newest: Row | None = None
    path: list[int] = field(default_factory=list)
    flat: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def insert(self, row: Row) -> Ints:
        """Flat index of each of the row's tokens."""
        shared = self._descend(_shared(self.newest, row, self.share_at_least) if self.newest is not None else 0)
        tokens = _run(row, self.whole)
        added = len(tokens) - shared
        if added:
            self._append(self.size, self.size + added, self.path[-1] if self.path else -1, row.both_ways)
            self.path.append(len(self.start) - 1)
        self.tokens.append(tokens[shared:])
        self.position.append(np.arange(shared, len(tokens)))
        self.flat = np.concatenate([self.flat[:shared], np.arange(self.size, self.size + added)])
        self.size += added
        self.newest = row
        return self.flat

    def nodes(self) -> tuple[Nodes, NDArray[np.bool_]]:
        """The nodes in depth-first order, and which of them are bidirectional."""
        order = np.argsort(self.start)
        rank = np.empty(len(order) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(order)), -1
        start, end, parent = (np.array(column, np.int64)[order] for column in (self.start, self.end, self.parent))
        return Nodes(start, end, rank[parent]), np.array(self.both_ways, bool)[order]

    def _descend(self, shared: int) -> int:
        """Cut the current path at depth `shared`, splitting a node where the cut falls inside it; returns the depth."""
        depth = 0
        for level, node in enumerate(self.path):
            length = self.end[node] - self.start[node]
            if depth + length > shared:
                if depth == shared:
                    self.path = self.path[:level]
                    return shared
                self._split(node, self.start[node] + shared - depth)
                self.path = self.path[: level + 1]
                return shared
            depth += length
        return depth

    def _split(self, node: int, place: int) -> None:
        # Everything below the node was laid out after the cut, so it now hangs under the lower half.
        self._append(place, self.end[node], node, self.both_ways[node])
        lower = len(self.start) - 1
        self.parent[:lower] = [lower if parent == node else parent for parent in self.parent[:lower]]
        self.end[node] = place

    def _append(self, start: int, end: int, parent: int, both_ways: bool) -> None:
        self.start.append(start)
        self.end.append(end)
        self.parent.append(parent)
        self.both_ways.append(both_ways)


def _interval(nodes: Nodes, both_ways: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """`first` and `last` of every token: a causal token is seen until its subtree ends."""
    subtree = nodes.end.copy()
    for node in range(len(nodes) - 1, -1, -1):
        if nodes.parent[node] >= 0:
            subtree[nodes.parent[node]] = max(subtree[nodes.parent[node]], subtree[node])
    lengths = nodes.end - nodes.start
    last = np.repeat(subtree, lengths)
    first = np.where(np.repeat(both_ways, lengths), np.repeat(nodes.start, lengths), np.arange(len(last)))
    return first, last


def _columns(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    names = rows[0].columns.keys()
    return {name: torch.from_numpy(np.concatenate([row.columns[name] for row in rows])) for name in names}
