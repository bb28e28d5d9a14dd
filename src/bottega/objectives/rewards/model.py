"""What a reward model says of an answer, as in learning from human preferences (Ouyang et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bottega.objectives.rewards import RewardFunction, SampledAnswer, ScoreWithModel


class ModelReward(RewardFunction):
    """The score that a model trained with `objective: {kind: reward}` gives the prompt with the answer.

    model  its run, its folder, or a hub id
    """

    kind: Literal["model"] = "model"
    model: str

    def scores(self, written: Sequence[SampledAnswer], judge: ScoreWithModel) -> Sequence[float]:
        return judge(self.model, written)
