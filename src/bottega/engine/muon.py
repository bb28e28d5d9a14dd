"""Muon (Jordan et al. 2024; learning rates as Liu et al. 2025, arXiv 2502.16982) with matrices of one shape together.

The same steps as `torch.optim.Muon`; a small model has many small matrices, and fifteen products for each of them cost
more in calls than in arithmetic.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bottega.engine.master_weights import Trained, wide
from bottega.hardware.device import multiplies

TOGETHER = 1 << 24
"""Most numbers of matrices stacked: beyond it a product is large enough by itself."""

MOMENTUM = 0.95
STEPS, COEFFICIENTS, EPSILON = 5, (3.4445, -4.775, 2.0315), 1e-7
"""Of Newton-Schulz, as Jordan chose them."""


class Muon:
    """Nesterov momentum, orthogonalised, at the learning rate whose updates are as large as AdamW's.

    state  of each weight: `momentum_buffer`, as torch's optimiser names it
    """

    def __init__(self, weights: Sequence[Trained], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.state = {one.name: {"momentum_buffer": wide(torch.zeros_like(one.weight)).detach()} for one in weights}
        self.stacks = list(_stacks(weights))

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Take the weights' own gradients out of `gradients`, divide each by the divisor, and move."""
        for stack in self.stacks:
            moved = [one for one in stack if one.name in gradients]
            if moved:
                self._move(moved, [wide(gradients.pop(one.name)) for one in moved], lr, divisor)

    def _move(self, stack: Sequence[Trained], gradients: list[Tensor], lr: float, divisor: Tensor | None) -> None:
        if divisor is not None:
            gradients = list(torch._foreach_div(gradients, divisor))
        buffers = [self.state[one.name]["momentum_buffer"] for one in stack]
        masters = [one.read().view(one.weight.shape) for one in stack]
        torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
        updates = torch._foreach_lerp(gradients, buffers, MOMENTUM)
        torch._foreach_mul_(masters, 1 - lr * self.weight_decay)
        lying = torch.stack([_lying(update) for update in updates])
        # One learning rate then fits this optimiser and AdamW.
        rate = 0.2 * math.sqrt(lying.shape[2]) * lr
        for one, master, move in zip(stack, masters, _orthogonal(lying).to(lying.dtype), strict=True):
            _lying(master).sub_(move, alpha=rate)
            one.write(master.view(-1))


def _stacks(weights: Sequence[Trained]) -> Iterator[Sequence[Trained]]:
    """Matrices with the same shape, lying or standing."""
    alike = defaultdict[tuple[int, ...], list[Trained]](list)
    for one in weights:
        alike[tuple(sorted(one.weight.shape))].append(one)
    for (short, long), stack in alike.items():
        size = max(1, TOGETHER // (short * long))
        yield from (stack[start : start + size] for start in range(0, len(stack), size))


def _lying(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose where that is wider."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _orthogonal(stack: Tensor) -> Tensor:
    """[n, r, c] with r ≤ c → the same with singular values near 1, by Newton-Schulz steps.

    In bfloat16, which they need no more than, where the hardware multiplies it.
    """
    a, b, c = COEFFICIENTS
    x = stack.bfloat16() if multiplies(torch.bfloat16, stack.device.type) else stack.float()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPSILON)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
