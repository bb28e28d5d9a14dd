"""Whether an answer has the form that is wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import field_validator

from bottega.objectives.rewards import RewardFunction, SampledAnswer, ScoreWithModel


class Pattern(RewardFunction):
    """1 for an answer in which a regular expression is found, 0 for any other.

    pattern  the expression, in Python's syntax; `.` stands for a line's end too
    whole    it must match all of the answer, white space around it aside
    """

    kind: Literal["pattern"] = "pattern"
    pattern: str
    whole: bool = False

    @field_validator("pattern")
    @classmethod
    def _sound(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def scores(self, written: Sequence[SampledAnswer], judge: ScoreWithModel) -> Sequence[float]:
        wanted = re.compile(self.pattern, re.DOTALL)
        find = wanted.fullmatch if self.whole else wanted.search
        return [float(find(one.text.strip() if self.whole else one.text) is not None) for one in written]
