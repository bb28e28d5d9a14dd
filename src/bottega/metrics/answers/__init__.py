"""How an answer that was written is marked against the right one: one file a metric, found by its file name.

To add one, write `metrics/<name>.py` with one subclass of `Metric`.
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
    """A number of written answers, made of what each adds.

    name     its id in `bottega.metrics.catalog`
    needs    the package it takes, if it may be absent
    higher   more is better
    rowwise  it says something of a single answer
    binary   an answer is right or wrong
    """

    name: ClassVar[str]
    needs: ClassVar[str | None] = None
    higher: ClassVar[bool] = True
    rowwise: ClassVar[bool] = True
    binary: ClassVar[bool] = False

    @abstractmethod
    def fits(self, answers: Sequence[str]) -> bool:
        """Whether it says something of answers such as these right ones."""

    @abstractmethod
    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        """What one answer adds, given all that would be right; `of` makes the number of it."""

    def of(self, sums: Floats) -> Floats:
        """[..., K] sums → [...] number: by default the first of two by the second."""
        return ratio(sums)

    def scores(self, written: Sequence[str | None], right: Sequence[Sequence[str]]) -> Scores:
        """Of all rows; a row that nothing was written for is unknown."""
        found = [None if one is None else self.sums(one, all_) for one, all_ in zip(written, right, strict=True)]
        size = next((len(one) for one in found if one is not None), 1)
        sums = np.array([[np.nan] * size if one is None else one for one in found], float)
        return Scores(self.name, sums, self.of, self.higher, self.rowwise, self.binary)


def is_installed(metric: type[Metric]) -> bool:
    """Whether what a metric needs is there."""
    return metric.needs is None or importlib.util.find_spec(metric.needs) is not None


def metric_names() -> list[str]:
    """Every metric in the folder, by its file."""
    return plugins.module_names(__path__)


def load_metric(name: str) -> type[Metric]:
    """The metric of `metrics/<name>.py`."""
    return plugins.load_class(__name__, name, Metric)


def applicable_metrics(answers: Sequence[str]) -> tuple[list[Metric], list[str]]:
    """The metrics that say something of these right answers, and the names of those whose package is not there."""
    fit = [one() for one in map(load_metric, metric_names()) if one().fits(answers)]
    return [one for one in fit if is_installed(type(one))], [one.name for one in fit if not is_installed(type(one))]


MIN_PROSE_WORDS = 8
"""Words from which on answers, on average, are prose, that can be right in many ways; a character of a script without
spaces counts for one."""


def is_prose(answers: Sequence[str]) -> bool:
    """Whether answers are prose."""
    return bool(np.mean([count_words(one) for one in answers]) >= MIN_PROSE_WORDS)
