"""A format reward: whether an answer matches a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer


class Pattern(RewardFunction):
    """1 for an answer in which a regular expression matches, 0 for any other."""

    kind: Literal["pattern"] = "pattern"
    pattern: str = Field(description="Regular expression in Python's syntax; `.` also matches line breaks.")
    whole: bool = Field(False, description="It must match the whole answer, apart from white space around it.")

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        # Answers have several lines, such as a reasoning part, so `.` should span them.
        expression = re.compile(self.pattern, re.DOTALL)
        match = expression.fullmatch if self.whole else expression.search
        texts = (answer.text.strip() if self.whole else answer.text for answer in answers)
        return [float(match(text) is not None) for text in texts]
