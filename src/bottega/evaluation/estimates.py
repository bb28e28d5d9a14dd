"""A metric of the run beside that of a baseline, with a confidence interval of the difference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from bottega.metrics.catalog import metric_label
from bottega.metrics.intervals import CONFIDENCE, jackknife, paired_difference
from bottega.metrics.scores import Floats, Scores

# With fewer rows the jackknife's interval is too narrow, so there is none.
MIN_ROWS = 10

Finding = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True)
class Estimate:
    """A metric of the run and of a baseline, and the interval of run minus baseline.

    rows      rows of which both are known
    base      the baseline's value; None where there is nothing to compare with
    interval  None there too, and where there are too few rows for one
    higher    whether higher is better; None where neither is
    error     standard error of the difference; None where there is no interval
    each      [R] the run's and the baseline's value of each row, where the metric is defined for a single row
    """

    metric: str
    rows: int
    run: float
    base: float | None
    interval: tuple[float, float] | None
    higher: bool | None = True
    error: float | None = None
    each: tuple[Floats, Floats] | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        """The metric's name for people."""
        return metric_label(self.metric)

    @property
    def finding(self) -> Finding | None:
        """Whether the run is better or worse; inconclusive where the interval holds zero."""
        if self.interval is None or self.higher is None:
            return None
        low, high = self.interval
        # An interval that touches zero does not exclude it.
        if low <= 0 <= high:
            return "inconclusive"
        return "better" if (low > 0) == self.higher else "worse"

    @property
    def gain(self) -> tuple[float, float] | None:
        """The interval with its sign such that higher is better."""
        if self.interval is None or self.higher is None:
            return None
        low, high = self.interval
        return (low, high) if self.higher else (-high, -low)

    def formatted(self) -> tuple[str, str, str]:
        """The run's value, the baseline's and the interval as text; empty where there is none."""
        base = "" if self.base is None else f"{self.base:.3f}"
        difference = "" if self.interval is None else "{:+.3f} to {:+.3f}".format(*self.interval)
        return f"{self.run:.3f}", base, difference

    def document(self) -> dict[str, Any]:
        """Plain data."""
        names = ("metric", "label", "rows", "run", "base", "interval", "higher", "error", "finding")
        return {name: getattr(self, name) for name in names}


def unpaired_estimate(run: Scores) -> Estimate:
    """A metric of the run with nothing to compare it with."""
    known = run.sums[run.known]
    return Estimate(run.metric, len(known), float(run.statistic(known.sum(0))), None, None, run.higher)


def paired_estimate(
    run: Scores, base: Scores, *, groups: ArrayLike | None = None, confidence: float = CONFIDENCE
) -> Estimate | None:
    """The same metric of two models over the rows of which both are known; None where there is no such row.

    The interval is Newcombe's for fractions of right answers, and the jackknife's for all else and for grouped rows.

    groups  [R] group of each row; rows of a group, such as answers to one question, are not independent
    """
    # Rows that either model could not read are unknown there, and left out of both.
    known = run.known & base.known  # [R]
    if not known.any():
        return None
    run_sums, base_sums = run.sums[known], base.sums[known]  # [n, K] each
    size = run_sums.shape[1]

    def difference(sums: Floats) -> Floats:
        return run.statistic(sums[..., :size]) - run.statistic(sums[..., size:])

    groups = None if groups is None else np.asarray(groups)[known]
    # Newcombe's interval takes rows for independent; with several rows to a prompt it would be too narrow.
    clustered = groups is not None and len(np.unique(groups)) < len(run_sums)
    interval: tuple[float, float] | None = None
    error = None
    if run.binary and not clustered:
        interval = paired_difference(run_sums[:, 0], base_sums[:, 0], confidence)
        if len(run_sums) > 1:
            error = float((run_sums[:, 0] - base_sums[:, 0]).std(ddof=1) / len(run_sums) ** 0.5)
    elif len(run_sums) >= MIN_ROWS:
        sums = np.hstack([run_sums, base_sums])  # [n, 2K]: a row is left out of both models at once
        result = jackknife(sums, difference, groups=groups if clustered else None, confidence=confidence)
        if result is not None:
            interval, error = (result.low, result.high), result.error
    each = (run.statistic(run.sums), run.statistic(base.sums)) if run.rowwise else None
    values = float(run.statistic(run_sums.sum(0))), float(run.statistic(base_sums.sum(0)))
    return Estimate(run.metric, len(run_sums), *values, interval, run.higher, error, each)
