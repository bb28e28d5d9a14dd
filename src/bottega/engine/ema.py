"""A moving average of the weights, which is often better than where the last update left them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bottega.engine.master_weights import ALL, Trained, put


class Average:
    """average ← d · average + (1 − d) · weight after each update (Polyak and Juditsky 1992, exponentially weighted).

    d is `decay`, and less at the beginning, (1 + t) / (10 + t) after t updates, so that where training began is soon
    forgotten.

    state  of each weight: `average`, and `updates`, how many went into it
    """

    def __init__(self, weights: Sequence[Trained], decay: float) -> None:
        self.weights, self.decay = weights, decay
        self.state = {
            one.name: {"average": one.read().clone(), "updates": torch.zeros((), dtype=torch.int64)} for one in weights
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in as they are now."""
        for one in self.weights:
            kept = self.state[one.name]
            kept["updates"] += 1
            done = int(kept["updates"])
            kept["average"].lerp_(one.read(), 1 - min(self.decay, (1 + done) / (10 + done)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model computes with the average."""
        own: list[Tensor] = [one.weight.detach().clone() for one in self.weights]
        try:
            for one in self.weights:
                put(one.weight.detach(), ALL, self.state[one.name]["average"])
            yield
        finally:
            for one, before in zip(self.weights, own, strict=True):
                one.weight.detach().copy_(before)
