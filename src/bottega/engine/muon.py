"""Muon (Jordan et al. 2024; learning rates as in Liu et al. 2025, arXiv 2502.16982), matrices of one shape together.

The updates are those of `torch.optim.Muon`. A small model has many small matrices, and fifteen matrix products for each
would cost more in kernel calls than in arithmetic.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bottega.engine.master_weights import MasterWeight, at_least_float32
from bottega.hardware.device import has_native_dtype

# The most elements in a stack of matrices; a product of that size is no longer dominated by its kernel calls.
MAX_STACK_SIZE = 1 << 24

MOMENTUM = 0.95

# Steps, coefficients of x, x³ and x⁵, and smallest norm of the Newton-Schulz iteration, as Jordan chose them: few steps
# bring all singular values near 1, none exactly to 1.
NEWTON_SCHULZ_STEPS, NEWTON_SCHULZ_COEFFICIENTS, EPSILON = 5, (3.4445, -4.775, 2.0315), 1e-7

# The root mean square of AdamW's updates, relative to the learning rate (Liu et al. 2025).
ADAMW_UPDATE_RMS = 0.2


class Muon:
    """Nesterov momentum, orthogonalized and scaled so that updates are as large as AdamW's at the same learning rate.

    state  for each weight: `momentum_buffer`, as torch's optimizer names it
    """

    def __init__(self, weights: Sequence[MasterWeight], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.state = {
            weight.name: {"momentum_buffer": at_least_float32(torch.zeros_like(weight.parameter)).detach()}
            for weight in weights
        }
        self.stacks = list(_group_by_shape(weights))

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Update the group's weights; their gradients are removed from `gradients` and divided by `divisor`."""
        for stack in self.stacks:
            # A weight that no example of the update used has no gradient, and stays.
            weights = [weight for weight in stack if weight.name in gradients]
            if weights:
                own = [at_least_float32(gradients.pop(weight.name)) for weight in weights]
                self._update(weights, own, lr, divisor)

    def _update(
        self, weights: Sequence[MasterWeight], gradients: list[Tensor], lr: float, divisor: Tensor | None
    ) -> None:
        if divisor is not None:
            gradients = list(torch._foreach_div(gradients, divisor))
        buffers = [self.state[weight.name]["momentum_buffer"] for weight in weights]
        masters = [weight.read().view(weight.parameter.shape) for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
        updates = torch._foreach_lerp(gradients, buffers, MOMENTUM)
        torch._foreach_mul_(masters, 1 - lr * self.weight_decay)
        stacked = torch.stack([_to_wide(update) for update in updates])  # [n, r, c], r ≤ c
        # An orthogonal [r, c] matrix has elements with a root mean square of 1 / √c.
        rate = ADAMW_UPDATE_RMS * math.sqrt(stacked.shape[2]) * lr
        orthogonal = _orthogonalize(stacked).to(stacked.dtype)
        for weight, master, update in zip(weights, masters, orthogonal, strict=True):
            _to_wide(master).sub_(update, alpha=rate)
            weight.write(master.view(-1))


def _group_by_shape(weights: Sequence[MasterWeight]) -> Iterator[Sequence[MasterWeight]]:
    """Matrices of one shape, transposed or not, in groups of at most MAX_STACK_SIZE elements."""
    by_shape = defaultdict[tuple[int, ...], list[MasterWeight]](list)
    for weight in weights:
        by_shape[tuple(sorted(weight.parameter.shape))].append(weight)
    for (short, long), group in by_shape.items():
        size = max(1, MAX_STACK_SIZE // (short * long))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _to_wide(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose (a view) if that is wider."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _orthogonalize(stack: Tensor) -> Tensor:
    """[n, r, c] with r ≤ c → the same shape, with all singular values near 1, by Newton-Schulz steps.

    In bfloat16, whose precision is enough for them, where the hardware has it.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    x = stack.bfloat16() if has_native_dtype(torch.bfloat16, stack.device.type) else stack.float()
    # The iteration converges for singular values up to 1, and none is larger than the Frobenius norm.
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPSILON)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # [n, r, r]: with r ≤ c the smaller of the two products
        # a x + (b G + c G²) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
