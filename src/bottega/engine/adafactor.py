"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): almost no optimizer state, and no momentum.

Of the mean of squared gradients of a matrix only its rows' and columns' means are kept. The learning rate is that of
the schedule, as with AdamW, neither falling by itself nor scaled by the size of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bottega.engine.master_weights import MasterWeight, at_least_float32

# The names and numbers of the paper: ε₁, the largest root mean square of an update, and the decay's exponent.
EPSILON, THRESHOLD, DECAY = 1e-30, 1.0, 0.8


class Adafactor:
    """Adafactor over a group of weights with one weight decay.

    state  for each weight: `step`; for one [..., r, c] `row` [..., r] and `column` [..., c], for others `exp_avg_sq`
    """

    def __init__(self, weights: Sequence[MasterWeight], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.weights = {weight.name: weight for weight in weights}
        self.state = {weight.name: _initial_state(weight.parameter) for weight in weights}

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None:
        """Update the group's weights; their gradients are removed from `gradients` and divided by `divisor`."""
        for name, weight in self.weights.items():
            if name not in gradients:
                continue
            gradient = at_least_float32(gradients.pop(name).to_dense())
            state = self.state[name]
            state["step"] += 1
            update = _direction(gradient if divisor is None else gradient / divisor, state)
            # A single element's root mean square is its size, so this holds for all shapes.
            update.div_((update.square().mean().sqrt() / THRESHOLD).clamp_(min=1.0))
            master = weight.read().view(weight.parameter.shape)
            master.mul_(1 - lr * self.weight_decay).sub_(update, alpha=lr)
            weight.write(master.view(-1))


def _initial_state(parameter: Tensor) -> dict[str, Tensor]:
    shape = parameter.shape
    sizes = {"row": shape[:-1], "column": (*shape[:-2], shape[-1])} if len(shape) >= 2 else {"exp_avg_sq": shape}
    means = {name: at_least_float32(parameter.new_zeros(size)) for name, size in sizes.items()}
    return {"step": torch.zeros((), device=parameter.device), **means}


def _direction(gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The gradient divided by the root of the mean of its squares so far, which are updated."""
    weight = float(state["step"]) ** -DECAY
    squares = gradient.square().add_(EPSILON)
    if "exp_avg_sq" in state:
        return gradient * state["exp_avg_sq"].lerp_(squares, weight).rsqrt()
    row = state["row"].lerp_(squares.mean(-1), weight)
    column = state["column"].lerp_(squares.mean(-2), weight)
    return gradient * (row / row.mean(-1, keepdim=True)).rsqrt()[..., None] * column.rsqrt()[..., None, :]
