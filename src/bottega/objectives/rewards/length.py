"""Overlong penalty: against answers that keep growing (Yu et al. 2025, DAPO, arXiv 2503.14476, eq. 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer


class Length(RewardFunction):
    """0 for an answer of up to `free` tokens, falling linearly to -1 at `most` tokens and beyond."""

    kind: Literal["length"] = "length"
    free: int = Field(ge=0, description="Tokens without penalty.")
    most: int = Field(ge=1, description="Tokens from which on the penalty is full.")

    @model_validator(mode="after")
    def _check_order(self) -> Length:
        if self.most <= self.free:
            raise ValueError("most: must be above free")
        return self

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        return [-min(max(answer.tokens - self.free, 0) / (self.most - self.free), 1.0) for answer in answers]
