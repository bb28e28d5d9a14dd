"""A prefix cache: keys and values of texts that were computed, found again by their tokens.

A radix tree, as in SGLang (Zheng et al. 2023, arXiv 2312.07104): texts that begin alike store their beginning once.
What was not used for the longest time is forgotten first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import cast

import numpy as np

from bottega.batch import Ints
from bottega.models.attention.cached_text import CachedText
from bottega.packing import common_prefix_length


@dataclass(eq=False)
class _Node:
    """Some tokens that follow those of the parent, and what follows them, by its first token."""

    tokens: Ints
    text: CachedText | None
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixCache:
    """Texts by their tokens; equal ids must have been computed alike, with the same adapter."""

    def __init__(self) -> None:
        self.tokens = 0  # in memory
        self._root = _Node(np.empty(0, np.int64), None, None)
        self._clock = count(1)

    def find(self, tokens: Sequence[int] | Ints) -> list[CachedText]:
        """The stored parts of the longest beginning of a text, in order; they stay valid when they are forgotten."""
        return [_text(node).part(0, used) for node, used in self._walk(np.asarray(tokens, np.int64))]

    def store(self, tokens: Sequence[int] | Ints, text: CachedText, start: int = 0) -> None:
        """Keep a copy of the tokens that `text` holds, from `start` on; not if those before are stored no longer."""
        wanted = np.asarray(tokens, np.int64)
        path = self._walk(wanted)
        found = sum(used for _, used in path)
        if found < start or found == len(wanted):
            return
        parent = self._root
        if path:
            parent, used = path[-1]
            if used < len(parent.tokens):
                self._split(parent, used)
        new = text.part(found - start, len(wanted) - start).copy()
        node = _Node(wanted[found:].copy(), new, parent, next(self._clock))
        parent.children[int(node.tokens[0])] = node
        self.tokens += len(node.tokens)

    def shrink(self, tokens: int) -> None:
        """Forget texts until at most so many tokens are stored."""
        while self.tokens > max(tokens, 0):
            leaf = min((node for node in self._nodes() if not node.children), key=lambda node: node.used)
            assert leaf.parent is not None
            del leaf.parent.children[int(leaf.tokens[0])]
            self.tokens -= len(leaf.tokens)

    def _walk(self, tokens: Ints) -> list[tuple[_Node, int]]:
        """The nodes along a text, and how many tokens of each are its own; only of the last it may be a part."""
        path, node, done = list[tuple[_Node, int]](), cast("_Node | None", self._root), 0
        while node is not None and done < len(tokens) and (child := node.children.get(int(tokens[done]))):
            used = common_prefix_length(child.tokens, tokens[done:])
            child.used = next(self._clock)
            path.append((child, used))
            done += used
            node = child if used == len(child.tokens) else None
        return path

    def _split(self, node: _Node, length: int) -> None:
        """Cut a node after `length` tokens; what follows becomes its child."""
        text = _text(node)
        rest = _Node(node.tokens[length:], text.part(length, len(text)).copy(), node, node.used, node.children)
        for child in rest.children.values():
            child.parent = rest
        node.tokens, node.text = node.tokens[:length], text.part(0, length).copy()
        node.children = {int(rest.tokens[0]): rest}

    def _nodes(self) -> Iterator[_Node]:
        waiting = list(self._root.children.values())
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            yield node


def _text(node: _Node) -> CachedText:
    assert node.text is not None, "only a root has none"
    return node.text
