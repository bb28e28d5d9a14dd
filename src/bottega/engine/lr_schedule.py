"""Learning rate schedules: the rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# The fraction of a warmup-stable-decay run in which the rate decays (Hu et al. 2024, arXiv 2404.06395).
WSD_DECAY_FRACTION = 0.2


@dataclass(frozen=True)
class Schedule:
    """Linear warmup to `peak`, then a decay towards `floor` · `peak`.

    kind    the shape of the decay: cosine, linear, none (constant), or late and linear (warmup-stable-decay)
    total   the number of steps of the run
    warmup  a fraction of all steps, or a number of steps if above 1
    floor   a fraction of the peak
    """

    kind: Literal["cosine", "linear", "constant", "wsd"]
    peak: float
    total: int
    warmup: float
    floor: float

    def lr(self, step: int) -> float:
        """The rate of a step, counted from 1 to `total`."""
        warmup_steps = self.warmup if self.warmup > 1 else math.ceil(self.warmup * self.total)
        if step <= warmup_steps:
            return self.peak * step / warmup_steps
        # The + 1 keeps the last step above the floor: with a floor of 0 it would be computed and change nothing.
        progress = (step - warmup_steps) / (self.total - warmup_steps + 1)
        return self.peak * (self.floor + (1 - self.floor) * self._decay(progress))

    def _decay(self, progress: float) -> float:
        """The height between floor (0) and peak (1) after this fraction of the decay."""
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "linear":
            return 1 - progress
        if self.kind == "wsd":
            return min(1.0, (1 - progress) / WSD_DECAY_FRACTION)
        return 1.0
