"""Combining low-rank updates of one layer: their exact sum, and what has a smaller rank or keeps adapters apart.

Legend: r rank, I inputs of a layer, O outputs. Updates are weighted: the exact sum is Σ wᵢ Bᵢ Aᵢ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bottega.models.low_rank import LowRankUpdate

# How a smaller or sparser update is made of several. `cat` is exact: its rank is the sum of their ranks.
METHODS = ("cat", "svd", "ties", "dare")


class CombineOptions(NamedTuple):
    """How updates are combined.

    method   one of METHODS
    rank     of the result; None keeps the sum of the ranks
    density  of ties and dare: the part of each update's entries that is kept
    """

    method: str = "cat"
    rank: int | None = None
    density: float = 0.5


class Combined(NamedTuple):
    """The update of a layer, a [r, I] and b [O, r] in float32, with squared norms for its error.

    error  ‖b a − exact sum‖², and `norm` ‖exact sum‖², both Frobenius
    """

    a: Tensor
    b: Tensor
    error: float
    norm: float


def combine_updates(
    updates: Sequence[tuple[float, LowRankUpdate]], options: CombineOptions, generator: torch.Generator
) -> Combined:
    """Combine the updates of one layer, each with its weight."""
    a = torch.cat([torch.from_numpy(update.a).double() for _, update in updates])  # [Σr, I]
    b = torch.cat([weight * torch.from_numpy(update.b).double() for weight, update in updates], 1)  # [O, Σr]
    if options.method in ("ties", "dare"):
        found = _sparse(updates, options, generator, options.rank or len(a))
    elif options.rank is not None and options.rank < len(a):
        found = _truncated(a, b, options.rank)
    else:
        found = a, b
    rounded = [part.float() for part in found]
    exact = b @ a  # [O, I]
    difference = rounded[1].double() @ rounded[0].double() - exact
    return Combined(rounded[0], rounded[1], float(difference.square().sum()), float(exact.square().sum()))


def _sparse(
    updates: Sequence[tuple[float, LowRankUpdate]], options: CombineOptions, generator: torch.Generator, rank: int
) -> tuple[Tensor, Tensor]:
    """The combination by ties or dare, which is dense, as factors of a rank."""
    pairs = [
        (weight, torch.from_numpy(update.a).double(), torch.from_numpy(update.b).double()) for weight, update in updates
    ]
    deltas = [weight * b @ a for weight, a, b in pairs]
    if options.method == "dare":
        dense = dare(deltas, options.density, generator)
    else:
        dense = ties(deltas, torch.tensor([weight for weight, *_ in pairs], dtype=torch.float64), options.density)
    return _factors(dense, min(rank, *dense.shape))


def ties(deltas: Sequence[Tensor], weights: Tensor, density: float) -> Tensor:
    """[O, I] the largest entries of each update, and of these only those of the sign that most weight is on.

    TIES-Merging (Yadav et al. 2023, arXiv 2306.01708). deltas: [O, I] each, with their weights in them.
    """
    trimmed = torch.stack([_largest(delta, density) for delta in deltas])  # [k, O, I]
    sign = trimmed.sum(0).sign()
    agrees = (trimmed.sign() == sign) & (sign != 0)
    share = (weights.abs().view(-1, 1, 1) * agrees).sum(0)  # the weight of those that agree
    kept = (trimmed * agrees).sum(0)
    return torch.where(share > 0, kept * (weights.abs().sum() / share.clamp(min=1e-300)), 0.0)


def dare(deltas: Sequence[Tensor], density: float, generator: torch.Generator) -> Tensor:
    """[O, I] the sum of updates of which entries are dropped by chance, and the others scaled up.

    DARE (Yu et al. 2024, arXiv 2311.03099). deltas: [O, I] each, with their weights in them.
    """
    kept = [torch.rand(delta.shape, generator=generator, dtype=delta.dtype) < density for delta in deltas]
    return torch.stack([delta * mask / density for delta, mask in zip(deltas, kept, strict=True)]).sum(0)


def _largest(delta: Tensor, density: float) -> Tensor:
    """The largest entries by absolute value; the others are zero."""
    count = max(1, round(density * delta.numel()))
    smallest = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
    return torch.where(delta.abs() >= smallest, delta, 0.0)


def _truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best a' [rank, I], b' [O, rank] for b a, whose product is never made: it may be large."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    small_a, small_b = _factors(r_b @ r_a.T, min(rank, len(a)))
    return small_a @ q_a.T, q_b @ small_b


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(a [rank, I], b [O, rank]) of the best approximation of a matrix [O, I], both with half of its size."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root
