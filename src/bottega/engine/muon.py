"""Muon (Jordan et al. 2024; learning rates as Liu et al. 2025, arXiv 2502.16982) with matrices of one shape together.

The same steps as `torch.optim.Muon`, whose state it keeps; a small model has many small matrices, and fifteen products
for each of them cost more in calls than in arithmetic.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TOGETHER = 1 << 24
"""Most numbers of matrices stacked: beyond it a product is large enough by itself."""


class Muon(torch.optim.Muon):
    """Nesterov momentum, orthogonalised, at the learning rate whose updates are as large as AdamW's."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a loss is not computed here
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight.grad)
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            for places in _stacks(updates):
                stack = torch.stack([_lying(updates[place]) for place in places])
                # One learning rate then fits this optimiser and AdamW.
                rate = 0.2 * math.sqrt(stack.shape[2]) * group["lr"]
                moves = _orthogonal(stack, group["ns_coefficients"], group["ns_steps"], group["eps"])
                for place, move in zip(places, moves.to(stack.dtype), strict=True):
                    _lying(weights[place]).sub_(move, alpha=rate)


def _stacks(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """Places of matrices with the same shape, lying or standing."""
    alike = defaultdict(list)
    for place, matrix in enumerate(matrices):
        alike[tuple(sorted(matrix.shape))].append(place)
    for (short, long), places in alike.items():
        size = max(1, TOGETHER // (short * long))
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _lying(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose where that is wider."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _orthogonal(stack: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """[n, r, c] with r ≤ c → the same with singular values near 1, by Newton-Schulz steps in bfloat16."""
    a, b, c = coefficients
    x = stack.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
