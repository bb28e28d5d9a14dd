"""How an answer compares with the right one, by what `bottega evaluate` marks answers with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from pydantic import field_validator

from bottega.metrics import answers
from bottega.objectives.rewards import RewardFunction, SampledAnswer, ScoreWithModel


class MetricReward(RewardFunction):
    """A metric of a single answer, such as `exact`, `numeric`, `fields` or `rouge`.

    metric  its name
    """

    compares: ClassVar[bool] = True

    kind: Literal["metric"] = "metric"
    metric: str

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in answers.metric_names():
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(answers.metric_names())}")
        if not answers.load_metric(name).rowwise:
            raise ValueError(f"{name} says nothing of a single answer; known: {', '.join(answers.metric_names())}")
        if not answers.is_installed(answers.load_metric(name)):
            raise ValueError(f"{name} needs a package: pip install 'bottega[evaluate]'")
        return name

    @property
    def name(self) -> str:
        return self.metric

    def scores(self, written: Sequence[SampledAnswer], judge: ScoreWithModel) -> Sequence[float]:
        return [self._mark(one) for one in written]

    def _mark(self, one: SampledAnswer) -> float:
        sign = 1.0 if self._metric.higher else -1.0
        return sign * float(self._metric.statistic(np.array(self._metric.sums(one.text, [one.record.right]), float)))

    @cached_property
    def _metric(self) -> answers.Metric:
        return answers.load_metric(self.metric)()
