"""The rewards of sampled answers: several reward functions, their weighted sum, and what a run reports of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.errors import RunError
from bottega.objectives.rewards import RewardFunction, SampledAnswer
from bottega.training.judges import LoadedJudges

# Advantages square the rewards, and are kept in float32: beyond this, squares lose all that answers differ by.
MAX_REWARD = 1e12


class AnswerRewards:
    """The reward functions of an objective, with their reward models loaded."""

    def __init__(self, functions: Sequence[RewardFunction], device: str, dtype: str) -> None:
        self.functions = functions
        self.models = LoadedJudges(device, dtype)
        for function in functions:
            function.check()
            # Loaded now, so that a missing model ends the run before its first update.
            for name in function.model_names:
                self.models.load(name)
            for name in function.judge_names:
                self.models.load_judge(name)

    def score(self, answers: Sequence[SampledAnswer]) -> NDArray[np.float64]:
        """[K, N] score of each answer by each reward function; raise a RunError if one is not finite or too large."""
        scores = []
        for function in self.functions:
            row = np.array(function.scores(answers, self.models), float)  # [N]
            if not np.isfinite(row).all():
                where = answers[int(np.flatnonzero(~np.isfinite(row))[0])].record.where
                what = f"the reward {function.name} of an answer is not a finite number"
                raise RunError(what, where=where, fix="return a finite number for every answer")
            scores.append(row)
        self._refuse_too_large(answers, scores)
        return np.stack(scores)

    def _refuse_too_large(self, answers: Sequence[SampledAnswer], scores: Sequence[NDArray[np.float64]]) -> None:
        """Raise a RunError if the square of a weighted score would lose the differences between answers."""
        for function, row in zip(self.functions, scores, strict=True):
            indices = np.flatnonzero(np.abs(function.weight * row) > MAX_REWARD)
            if len(indices):
                reward = function.weight * row[indices[0]]
                what = f"the reward {function.name}, times its weight, gives an answer {reward:g}"
                fix = f"keep rewards within ±{MAX_REWARD:g}; only their differences matter, so -1 to 1 will do"
                raise RunError(what, where=answers[int(indices[0])].record.where, fix=fix)

    def total(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K, N] scores → [N] weighted sums: the rewards."""
        return np.array([function.weight for function in self.functions]) @ scores

    def metrics(self, answers: Sequence[SampledAnswer], scores: NDArray[np.float64]) -> dict[str, float]:
        """Mean reward and, of several functions, mean scores; answer length; fraction of unfinished answers."""
        metrics = {"reward": float(self.total(scores).mean())}
        if len(scores) > 1:
            # Two functions of one kind are told apart by their position in the recipe.
            names = [function.name for function in self.functions]
            keys = [name if names.count(name) == 1 else f"{name}_{index + 1}" for index, name in enumerate(names)]
            metrics |= {f"reward_{key}": float(row.mean()) for key, row in zip(keys, scores, strict=True)}
        return metrics | {
            "answer_tokens": float(np.mean([answer.tokens for answer in answers])),
            "unfinished": float(np.mean([not answer.ended for answer in answers])),
        }
