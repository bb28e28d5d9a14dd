"""An exponential moving average of the weights (EMA), which is validated and saved in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bottega.engine.master_weights import ALL, MasterWeight, assign


class WeightAverage:
    """After each update: average ← d · average + (1 − d) · weight (Polyak & Juditsky 1992, exponentially weighted).

    d is `decay`, but at most (1 + t) / (10 + t) after t updates, so that the initial weights soon lose their influence.

    state  for each weight: `average`, in float32 or wider, and `updates`, the number of updates in it
    """

    def __init__(self, weights: Sequence[MasterWeight], decay: float) -> None:
        self.weights, self.decay = weights, decay
        # `updates` is a tensor so that it is saved with the rest of the optimizer's state.
        self.state = {
            weight.name: {"average": weight.read().clone(), "updates": torch.zeros((), dtype=torch.int64)}
            for weight in weights
        }

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average."""
        for weight in self.weights:
            state = self.state[weight.name]
            state["updates"] += 1
            updates = int(state["updates"])  # on the CPU, so reading it waits for no device
            # Averaged from the masters: in bfloat16, 1 − d of a small change would round to nothing.
            state["average"].lerp_(weight.read(), 1 - min(self.decay, (1 + updates) / (10 + updates)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the `with` block the model's weights are the average."""
        # A float32 weight is its own master, so the average overwrites both.
        originals: list[Tensor] = [weight.parameter.detach().clone() for weight in self.weights]
        try:
            for weight in self.weights:
                assign(weight.parameter.detach(), ALL, self.state[weight.name]["average"])
            yield
        finally:
            for weight, original in zip(self.weights, originals, strict=True):
                weight.parameter.detach().copy_(original)
