"""A grader as reward, as OpenAI's reinforcement fine-tuning has it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator

from bottega.errors import DataError
from bottega.metrics.graders import MISTAKES, GradedText, Grader, UngradableError, parse_grader
from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer


class GraderReward(RewardFunction):
    """The grade of the answer; `{{item.x}}` in a grader is the field x of the row.

    An answer that cannot be graded, such as one of which a model gives no number, has a grade of 0, with a warning.
    """

    kind: Literal["grader"] = "grader"
    grader: dict[str, Any] = Field(
        description="The grader, as OpenAI writes it; types: string_check, text_similarity, score_model, label_model, "
        "python, multi."
    )

    @field_validator("grader")
    @classmethod
    def _check_grader(cls, document: dict[str, Any]) -> dict[str, Any]:
        try:
            parse_grader(document)
        except DataError as error:
            raise ValueError(f"{error.what}; {error.fix}") from None
        return document

    @property
    def name(self) -> str:
        return self._grader.name or self.kind

    @cached_property
    def _grader(self) -> Grader:
        return parse_grader(self.grader)

    @property
    def judge_names(self) -> tuple[str, ...]:
        return self._grader.model_names

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        return [self._grade(answer, judges) for answer in answers]

    def _grade(self, answer: SampledAnswer, judges: JudgeModels) -> float:
        try:
            return self._grader.grade(GradedText(answer.text, answer.record.row, judges.ask))
        except UngradableError as error:
            where = f"{answer.record.where}, grader {self.name}"
            if error.flag in MISTAKES:
                raise DataError(error.reason, where=where, fix="correct the row, or the grader") from None
            warnings.warn(f"{where}: an answer cannot be graded: {error.reason}", RuntimeWarning, stacklevel=2)
            return 0.0
