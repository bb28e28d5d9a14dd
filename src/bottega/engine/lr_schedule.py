"""Learning rate over a run, as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

DECAY = 0.2
"""The share of a warmup-stable-decay run spent coming down (Hu et al. 2024, arXiv 2404.06395)."""


@dataclass(frozen=True)
class Schedule:
    """`lr(step)` for steps 1 … total: up over `warmup` steps, then down towards `floor` · peak.

    Neither the first nor the last step has a rate of zero: no update is spent on nothing.

    warmup  a fraction of all steps, or a number of steps when above 1
    """

    kind: Literal["cosine", "linear", "constant", "wsd"]
    peak: float
    total: int
    warmup: float
    floor: float

    def lr(self, step: int) -> float:
        rising = self.warmup if self.warmup > 1 else math.ceil(self.warmup * self.total)
        if step <= rising:
            return self.peak * step / rising
        done = (step - rising) / (self.total - rising + 1)
        return self.peak * (self.floor + (1 - self.floor) * self._height(done))

    def _height(self, done: float) -> float:
        """1 at the peak, 0 at the end, after a share `done` of the way down."""
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.kind == "linear":
            return 1 - done
        if self.kind == "wsd":
            return min(1.0, (1 - done) / DECAY)
        return 1.0
