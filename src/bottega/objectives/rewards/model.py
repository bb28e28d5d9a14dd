"""A reward model as reward, as in reinforcement learning from human feedback (Ouyang et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer


class ModelReward(RewardFunction):
    """The score that a model trained with `objective: {kind: reward}` gives the prompt with the answer."""

    kind: Literal["model"] = "model"
    model: str = Field(description="Run, folder or hub id of the reward model.")

    @property
    def model_names(self) -> tuple[str, ...]:
        return (self.model,)

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        return judges(self.model, answers)
