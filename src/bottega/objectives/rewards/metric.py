"""A metric as reward: how an answer compares with the reference answer, as `bottega evaluate` would score it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from bottega.metrics import answers as metrics
from bottega.objectives.rewards import JudgeModels, RewardFunction, SampledAnswer


class MetricReward(RewardFunction):
    """A metric of a single answer, such as `exact`, `numeric`, `fields` or `rouge`."""

    compares: ClassVar[bool] = True

    kind: Literal["metric"] = "metric"
    metric: str = Field(description="Name of the metric.")

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, name: str) -> str:
        known = ", ".join(metrics.metric_names())
        if name not in metrics.metric_names():
            raise ValueError(f"unknown metric {name!r}; known: {known}")
        # BLEU, for example, is defined over a set of answers.
        if not metrics.load_metric(name).rowwise:
            raise ValueError(f"{name} does not score single answers; known: {known}")
        if not metrics.is_installed(metrics.load_metric(name)):
            raise ValueError(f"{name} needs a package: pip install 'bottega[evaluate]'")
        return name

    @property
    def name(self) -> str:
        return self.metric

    def scores(self, answers: Sequence[SampledAnswer], judges: JudgeModels) -> Sequence[float]:
        return [self._score(answer) for answer in answers]

    def _score(self, answer: SampledAnswer) -> float:
        # A reward must rise with quality, so an error rate counts negative.
        sign = 1.0 if self._metric.higher else -1.0
        sums = np.array(self._metric.sums(answer.text, [answer.record.right]), float)
        return sign * float(self._metric.statistic(sums))

    @cached_property
    def _metric(self) -> metrics.Metric:
        return metrics.load_metric(self.metric)()
