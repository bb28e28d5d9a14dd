"""Metrics that compare a generated answer with reference answers: one file a metric, found by its file name.

To add one, write `metrics/answers/<name>.py` with one subclass of `Metric`.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from bottega import plugins
from bottega.metrics.scores import Floats, Scores, ratio
from bottega.tokenization.unicode_words import count_words


class Metric(ABC):
    """A statistic of generated answers, computed from what each adds to some sums.

    name      its id in `bottega.metrics.catalog`
    requires  the optional package it needs
    higher    higher is better
    rowwise   it is defined for a single answer
    binary    an answer is right or wrong
    """

    name: ClassVar[str]
    requires: ClassVar[str | None] = None
    higher: ClassVar[bool] = True
    rowwise: ClassVar[bool] = True
    binary: ClassVar[bool] = False

    @abstractmethod
    def applies_to(self, answers: Sequence[str]) -> bool:
        """Whether the metric is meaningful for such reference answers."""

    @abstractmethod
    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        """What one answer adds, given the accepted answers; `statistic` computes the metric from sums of it."""

    def statistic(self, sums: Floats) -> Floats:
        """[..., K] sums → [...] metric: by default the first of two sums divided by the second."""
        return ratio(sums)

    def scores(self, answers: Sequence[str | None], references: Sequence[Sequence[str]]) -> Scores:
        """The scores of all rows; unknown where no answer was generated."""
        rows = [
            None if answer is None else self.sums(answer, accepted)
            for answer, accepted in zip(answers, references, strict=True)
        ]
        size = next((len(row) for row in rows if row is not None), 1)
        sums = np.array([[np.nan] * size if row is None else row for row in rows], float)  # [R, K]
        return Scores(self.name, sums, self.statistic, self.higher, self.rowwise, self.binary)


def is_installed(metric: type[Metric]) -> bool:
    """Whether the optional package of a metric is installed."""
    return metric.requires is None or importlib.util.find_spec(metric.requires) is not None


def metric_names() -> list[str]:
    """The names of all metrics: those of their files."""
    return plugins.module_names(__path__)


def load_metric(name: str) -> type[Metric]:
    """The metric class of `metrics/answers/<name>.py`."""
    return plugins.load_class(__name__, name, Metric)


def applicable_metrics(answers: Sequence[str]) -> tuple[list[Metric], list[str]]:
    """The metrics that apply to these reference answers, and the names of those whose package is not installed."""
    metrics = [metric() for metric in map(load_metric, metric_names()) if metric().applies_to(answers)]
    available = [metric for metric in metrics if is_installed(type(metric))]
    return available, [metric.name for metric in metrics if not is_installed(type(metric))]


# Answers of at least so many words on average are prose, which can be right in many wordings: n-gram metrics apply.
# A character of a script without spaces counts as a word.
MIN_PROSE_WORDS = 8


def is_prose(answers: Sequence[str]) -> bool:
    """Whether answers are prose."""
    return bool(np.mean([count_words(answer) for answer in answers]) >= MIN_PROSE_WORDS)
