"""Noise on embeddings while training (NEFTune, Jain et al. 2023, arXiv 2310.05914): answers grow less bookish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bottega.batch import Ints, Nodes


class EmbeddingNoise:
    """Adds to each embedding numbers drawn evenly from ±alpha / √(L·d): L tokens in the row, d numbers a token.

    Tokens that several rows share have one draw for all of them, and the length of the longest.

    lengths  [1, T] L of each token of the next forward; None where that is one row
    """

    def __init__(self, embeddings: Iterable[nn.Module], alpha: float) -> None:
        self.alpha = alpha
        self.lengths: Tensor | None = None
        for embedding in embeddings:
            embedding.register_forward_hook(self._noisy)

    def _noisy(self, module: nn.Module, given: Any, embedded: Tensor) -> Tensor | None:
        if not module.training:
            return None
        lengths = embedded.new_full((1, 1), embedded.shape[1]) if self.lengths is None else self.lengths
        size = self.alpha / (lengths * embedded.shape[2]).float().sqrt()
        drawn = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)
        return embedded + (drawn * size[..., None]).to(embedded.dtype)


def row_lengths(nodes: Nodes, total: int) -> Ints:
    """[total] of each token the length of the longest row it stands in; 1 for what pads the sequence."""
    own = nodes.end - nodes.start
    depth, longest = np.zeros_like(own), np.zeros_like(own)
    for node, parent in enumerate(nodes.parent.tolist()):
        depth[node] = own[node] + (depth[parent] if parent >= 0 else 0)
    for node in range(len(own) - 1, -1, -1):
        longest[node] = max(longest[node], depth[node])
        if nodes.parent[node] >= 0:
            parent = nodes.parent[node]
            longest[parent] = max(longest[parent], longest[node])
    found = np.ones(total, np.int64)
    found[: int(own.sum())] = np.repeat(longest, own)
    return found
