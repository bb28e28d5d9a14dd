"""A number of a run beside the same of what it must beat, and how sure the difference is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from bottega.metrics.intervals import CONFIDENCE, jackknife, paired_difference
from bottega.metrics.scores import Numbers, Scores

MIN_ROWS = 10
"""Rows below which an interval claims more than it knows, and none is made of sums."""

Finding = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True)
class Estimate:
    """A number of the run, the same of the base, and the interval of run minus base.

    rows      of which both are known
    base      None where there is nothing to compare with
    interval  None there too, and where there are too few rows for one
    higher    more is better; None where neither is
    error     standard error of the difference; None where there is no interval
    each      [R] of each row: the run's part and the base's, where the number says something of single rows
    """

    metric: str
    rows: int
    run: float
    base: float | None
    interval: tuple[float, float] | None
    higher: bool | None = True
    error: float | None = None
    each: tuple[Numbers, Numbers] | None = field(default=None, repr=False, compare=False)

    @property
    def finding(self) -> Finding | None:
        if self.interval is None or self.higher is None:
            return None
        low, high = self.interval
        if low <= 0 <= high:
            return "inconclusive"
        return "better" if (low > 0) == self.higher else "worse"

    @property
    def gain(self) -> tuple[float, float] | None:
        """The interval turned so that more is better."""
        if self.interval is None or self.higher is None:
            return None
        low, high = self.interval
        return (low, high) if self.higher else (-high, -low)

    def written(self) -> tuple[str, str, str]:
        """The run's number, the base's, and the interval, as people read them; empty where there is none."""
        base = "" if self.base is None else f"{self.base:.3f}"
        difference = "" if self.interval is None else "{:+.3f} to {:+.3f}".format(*self.interval)
        return f"{self.run:.3f}", base, difference

    def document(self) -> dict[str, Any]:
        names = ("metric", "rows", "run", "base", "interval", "higher", "error", "finding")
        return {name: getattr(self, name) for name in names}


def unpaired_estimate(run: Scores) -> Estimate:
    """A number with nothing to compare it with."""
    known = run.sums[run.known]
    return Estimate(run.metric, len(known), float(run.of(known.sum(0))), None, None, run.higher)


def paired_estimate(
    run: Scores, base: Scores, *, groups: ArrayLike | None = None, confidence: float = CONFIDENCE
) -> Estimate | None:
    """The same number of two models over the rows of which both are known; None where there is no such row.

    Of shares of right answers by Newcombe's method, of all else, and where rows go together, by the jackknife.

    groups  [R] rows that go together, such as answers to one question
    """
    known = run.known & base.known
    if not known.any():
        return None
    ours, theirs = run.sums[known], base.sums[known]
    size = ours.shape[1]

    def gain(sums: Numbers) -> Numbers:
        return run.of(sums[..., :size]) - run.of(sums[..., size:])

    groups = None if groups is None else np.asarray(groups)[known]
    clustered = groups is not None and len(np.unique(groups)) < len(ours)
    interval: tuple[float, float] | None = None
    error = None
    if run.binary and not clustered:
        interval = paired_difference(ours[:, 0], theirs[:, 0], confidence)
        error = float((ours[:, 0] - theirs[:, 0]).std(ddof=1) / len(ours) ** 0.5) if len(ours) > 1 else None
    elif len(ours) >= MIN_ROWS:
        found = jackknife(np.hstack([ours, theirs]), gain, groups=groups if clustered else None, confidence=confidence)
        interval, error = (None, None) if found is None else ((found.low, found.high), found.error)
    each = (run.of(run.sums), run.of(base.sums)) if run.rowwise else None
    values = float(run.of(ours.sum(0))), float(run.of(theirs.sum(0)))
    return Estimate(run.metric, len(ours), *values, interval, run.higher, error, each)
