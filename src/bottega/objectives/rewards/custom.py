"""A custom reward: a function in the user's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from bottega.errors import RecipeError
from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer
from bottega.plugins import check_score, load_function_from_file, locate_user_errors

EXAMPLE = "def score(answer, reference): return float(reference in answer)"

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FileReward(RewardFunction):
    """What the function `score(answer, reference)` in a Python file returns, as for `bottega evaluate --scorer`.

    With a third parameter it also gets the row, with all its fields. Without a reference answer, `reference` is empty.
    """

    kind: Literal["custom"] = "custom"
    file: str = Field(description="Python file with the function, relative to the recipe's folder.")

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def check(self) -> None:
        self._function()

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        score, takes_row = self._function()
        scores = []
        for answer in answers:
            row = [answer.record.row] if takes_row else []
            with locate_user_errors(self.file):
                value = score(answer.text, answer.record.right, *row)
            scores.append(check_score(value, self.file))
        return scores

    def _function(self) -> tuple[Callable[..., object], bool]:
        """(the function, whether it takes the row as a third argument); a RecipeError if it cannot be called so."""
        score = load_function_from_file(self.file, "score", EXAMPLE)
        parameters = inspect.signature(score).parameters.values()
        required = [
            parameter
            for parameter in parameters
            if parameter.kind in POSITIONAL and parameter.default is parameter.empty
        ]
        required_keywords = [
            parameter
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        ]
        # A third parameter with a default is an option of the function's own, and not the row.
        positional = sum(parameter.kind in POSITIONAL for parameter in parameters)
        takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
        if len(required) > 3 or required_keywords or (positional < 2 and not takes_any):
            what = f"score{inspect.signature(score)} cannot be called with an answer and a reference answer"
            raise RecipeError(what, where=self.file, fix=f"define it as: {EXAMPLE}")
        return score, len(required) == 3
