"""Against answers that grow and grow (Yu et al. 2025, DAPO, arXiv 2503.14476, eq. 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bottega.objectives.rewards import RewardFunction, SampledAnswer, ScoreWithModel


class Length(RewardFunction):
    """0 for an answer of up to `free` tokens, from there evenly down to −1 for one of `most`, or of more.

    free  tokens that cost nothing
    most  tokens from which on it costs most
    """

    kind: Literal["length"] = "length"
    free: int = Field(ge=0)
    most: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Length:
        if self.most <= self.free:
            raise ValueError("most: must be above free")
        return self

    def scores(self, written: Sequence[SampledAnswer], judge: ScoreWithModel) -> Sequence[float]:
        return [-min(max(one.tokens - self.free, 0) / (self.most - self.free), 1.0) for one in written]
