"""Scores of one model per row, kept as sums, so that any two models can be compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bottega.metrics.intervals import class_sums, f1, macro_f1

Floats = NDArray[np.float64]
# [..., K] sums → [...] statistic.
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Scores:
    """A metric as what each row adds to some sums, and a statistic of the sums: a mean, F1, BLEU or perplexity.

    sums       [R, K] what each row adds; NaN in rows without a score
    statistic  computes the metric from sums over rows
    higher     higher is better; None where neither is
    rowwise    the statistic is defined for a single row
    binary     each row is right or wrong: its sums are 1 or 0, and 1
    """

    metric: str
    sums: Floats
    statistic: Statistic
    higher: bool | None = True
    rowwise: bool = True
    binary: bool = False

    @property
    def known(self) -> NDArray[np.bool_]:
        """[R] whether a row has a score."""
        return np.asarray(~np.isnan(self.sums).any(1))

    @property
    def each(self) -> Floats | None:
        """[R] the metric of each row by itself; None where it is not defined for one row."""
        return self.statistic(self.sums) if self.rowwise else None

    def within(self, indices: Sequence[int], count: int) -> Scores:
        """The scores of `count` rows, of which these are those at `indices`; the others have none."""
        # NaN, not 0: a row without a score must not count as wrong.
        sums = np.full((count, self.sums.shape[1]), np.nan)
        sums[list(indices)] = self.sums
        return replace(self, sums=sums)

    def without(self, indices: Sequence[int]) -> Scores:
        """The same scores, with none for some rows."""
        sums = self.sums.copy()
        sums[list(indices)] = np.nan
        return replace(self, sums=sums)


def ratio(sums: Floats) -> Floats:
    """[..., 2] sums → [...] the first divided by the second; 0 / 0 is 0."""
    # Weights are not negative, so the smallest float only replaces 0.
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], np.finfo(float).tiny))


def proportion(metric: str, right: ArrayLike) -> Scores:
    """The fraction of rows that are right: [R] 1 or 0, NaN where unknown."""
    right = np.asarray(right, float)
    return Scores(metric, np.stack([right, np.ones(len(right))], 1), ratio, binary=True)


def row_mean(metric: str, values: ArrayLike, *, higher: bool = True, transform: Statistic = np.asarray) -> Scores:
    """The mean of values [R], then transformed."""
    values = np.asarray(values, float)
    return weighted_mean(metric, values, np.ones(len(values)), higher=higher, transform=transform)


def weighted_mean(
    metric: str, values: ArrayLike, weight: ArrayLike, *, higher: bool = False, transform: Statistic = np.asarray
) -> Scores:
    """The sum of values [R] divided by the sum of weights [R], then transformed; lower is better unless `higher`."""
    sums = np.stack([np.asarray(values, float), np.asarray(weight, float)], 1)
    return Scores(metric, sums, lambda totals: transform(ratio(totals)), higher)


def micro_f1(metric: str, counts: ArrayLike) -> Scores:
    """F1 over all rows together, from [R, 2]: true positives, and predicted plus actual positives."""
    return Scores(metric, np.asarray(counts, float), f1)


def class_scores(right: Any, predicted: Any, count: int) -> list[Scores]:
    """Accuracy and macro-F1 of class ids [R], of `count` classes; a predicted id below 0 is no class."""
    sums = class_sums(np.asarray(right), np.asarray(predicted), count)
    # Macro-F1 averages over classes: a single row has one class, and no macro-F1.
    macro = Scores("f1_macro", sums, macro_f1, rowwise=False)
    return [proportion("accuracy", np.asarray(right) == np.asarray(predicted)), macro]
