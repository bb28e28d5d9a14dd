"""Numbers of one model over the rows of an exam, kept as sums, so that any two models can be compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bottega.metrics.intervals import class_sums, f1, macro_f1

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""[..., K] sums → [...] number."""


@dataclass(frozen=True)
class Scores:
    """A number as what each row adds, and what is made of the totals: a mean, F1, BLEU, perplexity alike.

    sums     [R, K] what each row adds; a row of NaN is one of which nothing is known
    of       makes the number of summed rows
    higher   more is better; None where neither is
    rowwise  `of` says something of a single row, too
    binary   each row is right or wrong, 1 or 0 of 1
    """

    metric: str
    sums: Floats
    of: Statistic
    higher: bool | None = True
    rowwise: bool = True
    binary: bool = False

    @property
    def known(self) -> NDArray[np.bool_]:
        """[R] rows of which something is known."""
        return np.asarray(~np.isnan(self.sums).any(1))

    @property
    def each(self) -> Floats | None:
        """[R] the number of every row by itself, where there is such a thing."""
        return self.of(self.sums) if self.rowwise else None

    def within(self, places: Sequence[int], count: int) -> Scores:
        """The same of `count` rows, of which those at `places` are known."""
        sums = np.full((count, self.sums.shape[1]), np.nan)
        sums[list(places)] = self.sums
        return replace(self, sums=sums)

    def without(self, places: Sequence[int]) -> Scores:
        """The same with nothing known of some rows."""
        sums = self.sums.copy()
        sums[list(places)] = np.nan
        return replace(self, sums=sums)


def ratio(sums: Floats) -> Floats:
    """[..., 2] → the first of two sums by the second."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], np.finfo(float).tiny))


def proportion(metric: str, right: ArrayLike) -> Scores:
    """How often something is right: [R] yes or no; NaN where that is unknown."""
    right = np.asarray(right, float)
    return Scores(metric, np.stack([right, np.ones(len(right))], 1), ratio, binary=True)


def row_mean(metric: str, values: ArrayLike, *, higher: bool = True, of: Statistic = np.asarray) -> Scores:
    """The mean of [R] numbers, and what `of` makes of it."""
    values = np.asarray(values, float)
    return weighted_mean(metric, values, np.ones(len(values)), higher=higher, of=of)


def weighted_mean(
    metric: str, values: ArrayLike, weight: ArrayLike, *, higher: bool = False, of: Statistic = np.asarray
) -> Scores:
    """A sum over rows by their summed weight, each [R], the lower the better or the `higher`; `of` is made of it."""
    sums = np.stack([np.asarray(values, float), np.asarray(weight, float)], 1)
    return Scores(metric, sums, lambda one: of(ratio(one)), higher)


def micro_f1(metric: str, counts: ArrayLike) -> Scores:
    """F1 over all rows together; [R, 2]: what agrees with what is there, and what was found plus what is there."""
    return Scores(metric, np.asarray(counts, float), f1)


def class_scores(right: Any, named: Any, count: int) -> list[Scores]:
    """Accuracy and macro-F1 of class numbers, each [R], of `count` classes; a number below 0 is no class."""
    sums = class_sums(np.asarray(right), np.asarray(named), count)
    macro = Scores("f1_macro", sums, macro_f1, rowwise=False)
    return [proportion("accuracy", np.asarray(right) == np.asarray(named)), macro]
