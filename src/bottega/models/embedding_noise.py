"""Noise on token embeddings in training (NEFTune, Jain et al. 2023, arXiv 2310.05914)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bottega.batch import Ints, Nodes


class EmbeddingNoise:
    """Adds uniform noise in ±alpha / √(L·H) to each embedding: L tokens in the row, H the hidden width.

    Tokens that several rows share get one noise vector for all of them, and L of the longest row.

    lengths  [1, T] L of each token in the next forward; None if that is a single row
    """

    def __init__(self, embeddings: Iterable[nn.Module], alpha: float) -> None:
        self.alpha = alpha
        self.lengths: Tensor | None = None
        for embedding in embeddings:
            embedding.register_forward_hook(self._add_noise)

    def _add_noise(self, module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor | None:
        if not module.training:
            return None
        lengths = embedded.new_full((1, 1), embedded.shape[1]) if self.lengths is None else self.lengths
        scale = self.alpha / (lengths * embedded.shape[2]).float().sqrt()
        # In float32 and rounded once: half precision has few values in so small a range.
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)  # [1, T, H]
        return embedded + (noise * scale[..., None]).to(embedded.dtype)


def row_lengths(nodes: Nodes, total: int) -> Ints:
    """[total] for each token the length of the longest row that contains it; 1 for padding."""
    sizes = nodes.end - nodes.start  # [M]
    depth, longest = np.zeros_like(sizes), np.zeros_like(sizes)
    for node, parent in enumerate(nodes.parent.tolist()):
        depth[node] = sizes[node] + (depth[parent] if parent >= 0 else 0)
    # Nodes stand in depth-first order, so backwards every child comes before its parent.
    for node in range(len(sizes) - 1, -1, -1):
        longest[node] = max(longest[node], depth[node])
        if nodes.parent[node] >= 0:
            parent = nodes.parent[node]
            longest[parent] = max(longest[parent], longest[node])
    lengths = np.ones(total, np.int64)
    lengths[: int(sizes.sum())] = np.repeat(longest, sizes)
    return lengths
