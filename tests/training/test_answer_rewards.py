"""Rewards of sampled answers: scores by each function, their weighted sum, and what a run reports of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bottega import objectives
from bottega.errors import ModelError, RunError
from bottega.objectives import OnPolicy
from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer
from bottega.records import Posed
from bottega.training.answer_rewards import MAX_REWARD, AnswerRewards

ANSWERS = [
    SampledAnswer(Posed("rows line 1", "a?", "4"), "4", tokens=1, ended=True),
    SampledAnswer(Posed("rows line 2", "b?", "4"), "it is five", tokens=6, ended=False),
]


class Fixed(RewardFunction):
    """A reward function with fixed scores."""

    kind: str = "fixed"
    values: Any

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        return self.values


def rewards(*given: Any) -> AnswerRewards:
    made = objectives.build_objective({"kind": "grpo", "rewards": list(given)})
    assert isinstance(made, OnPolicy)
    return AnswerRewards(made.rewards, "cpu", "float32")


def test_the_reward_is_the_weighted_sum_of_all_scores() -> None:
    made = rewards({"kind": "metric", "metric": "exact", "weight": 2}, {"kind": "length", "free": 2, "most": 10})
    scores = made.score(ANSWERS)
    assert scores.tolist() == [[1.0, 0.0], [0.0, -0.5]]
    assert made.total(scores).tolist() == [2.0, -0.5]
    assert made.metrics(ANSWERS, scores) == {
        "reward": 0.75,
        "reward_exact": 0.5,
        "reward_length": -0.25,
        "answer_tokens": 3.5,
        "unfinished": 0.5,
    }


def test_a_single_reward_is_reported_once_and_two_of_a_kind_by_their_position() -> None:
    alone = rewards("exact")
    assert set(alone.metrics(ANSWERS, alone.score(ANSWERS))) == {"reward", "answer_tokens", "unfinished"}
    pair = rewards({"kind": "length", "free": 0, "most": 10}, "exact", {"kind": "length", "free": 0, "most": 20})
    metrics = pair.metrics(ANSWERS, pair.score(ANSWERS))
    assert (metrics["reward_length_1"], metrics["reward_length_3"]) == (-0.35, -0.175)
    assert "reward_exact" in metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_names_the_row_of_its_prompt(value: float) -> None:
    with pytest.raises(RunError, match="reward fixed of an answer is not a finite number") as caught:
        AnswerRewards([Fixed(values=(1.0, value))], "cpu", "float32").score(ANSWERS)
    assert caught.value.where == "rows line 2"


def test_rewards_whose_squares_would_lose_their_differences_are_refused() -> None:
    made = AnswerRewards([Fixed(values=(MAX_REWARD, -MAX_REWARD))], "cpu", "float32")
    assert np.abs(made.score(ANSWERS)).max() == MAX_REWARD
    with pytest.raises(RunError, match="times its weight, gives an answer -2e\\+12") as caught:
        AnswerRewards([Fixed(values=(0.0, -MAX_REWARD), weight=2.0)], "cpu", "float32").score(ANSWERS)
    assert caught.value.where == "rows line 2"


def test_a_missing_reward_model_is_an_error_before_anything_is_scored(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        rewards({"kind": "model", "model": str(tmp_path / "none")})
