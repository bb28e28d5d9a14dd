"""A number of a run beside the same of what it must beat, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bottega.evaluation.stats import Interval, jackknife, macro_f1, of_classes, paired_difference
from bottega.evaluation.stats import f1 as f1_of

FEWEST = 10
"""Rows below which an interval claims more than it knows, and none is made of sums."""

Finding = Literal["better", "worse", "unsure"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number of the run, the same of the base, and the interval of run minus base.

    base      None where there is nothing to compare with
    interval  None there too, and where there are too few rows for one
    higher    more is better
    error     standard error of the difference; None where there is no interval
    each      [R] of each row: the run's part and the base's, where the number is a mean of rows
    """

    metric: str
    rows: int
    run: float
    base: float | None
    interval: tuple[float, float] | None
    higher: bool = True
    error: float | None = None
    each: tuple[Numbers, Numbers] | None = field(default=None, repr=False, compare=False)

    @property
    def finding(self) -> Finding | None:
        if self.interval is None:
            return None
        low, high = self.interval
        if low <= 0 <= high:
            return "unsure"
        return "better" if (low > 0) == self.higher else "worse"

    @property
    def gain(self) -> tuple[float, float] | None:
        """The interval turned so that more is better."""
        if self.interval is None:
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


def share(metric: str, run: Any, base: Any) -> Estimate:
    """How often something is right: [R] of the run and of the base, or None."""
    run = np.asarray(run, float)
    if base is None:
        return Estimate(metric, len(run), float(run.mean()), None, None)
    base = np.asarray(base, float)
    error = float((run - base).std(ddof=1) / len(run) ** 0.5) if len(run) > 1 else None
    interval = paired_difference(run, base)
    return Estimate(metric, len(run), float(run.mean()), float(base.mean()), interval, error=error, each=(run, base))


def mean(
    metric: str,
    run: Numbers,
    base: Numbers | None,
    weight: Numbers,
    of: Callable[[Numbers], Numbers] = np.asarray,
    *,
    higher: bool = False,
) -> Estimate:
    """A sum over rows by their summed weight, each [R], the lower the better or the `higher`; `of` is made of it."""
    value = float(of(run.sum() / weight.sum()))
    if base is None:
        return Estimate(metric, len(run), value, None, None, higher)

    def gain(sums: Numbers) -> Numbers:
        total = np.maximum(sums[..., 2], np.finfo(float).tiny)
        return of(sums[..., 0] / total) - of(sums[..., 1] / total)

    before = float(of(base.sum() / weight.sum()))
    each = (of(run / np.maximum(weight, 1e-9)), of(base / np.maximum(weight, 1e-9)))
    return _sure(Estimate(metric, len(run), value, before, None, higher, each=each), [run, base, weight], gain)


def classes(right: Any, named: Any, base: Any) -> Iterator[Estimate]:
    """Accuracy and macro-F1 of class numbers, each [R]."""
    yield share("label accuracy", named == right, None if base is None else base == right)
    ours = of_classes(right, named)
    value = float(macro_f1(ours.sum(0)))
    if base is None:
        yield Estimate("macro-F1", len(right), value, None, None)
        return
    theirs = of_classes(right, base)
    size = ours.shape[1]

    def gain(sums: Numbers) -> Numbers:
        return macro_f1(sums[..., :size]) - macro_f1(sums[..., size:])

    before = float(macro_f1(theirs.sum(0)))
    yield _sure(Estimate("macro-F1", len(right), value, before, None), [*ours.T, *theirs.T], gain)


def f1(metric: str, run: Any, base: Any) -> Estimate:
    """F1 over all rows together; [R, 2] each: what agrees with what is there, and what was found plus what is there."""

    def gain(sums: Numbers) -> Numbers:
        return f1_of(sums[..., :2]) - f1_of(sums[..., 2:])

    value, before = float(f1_of(run.sum(0))), float(f1_of(base.sum(0)))
    estimate = Estimate(metric, len(run), value, before, None, each=(f1_of(run), f1_of(base)))
    return _sure(estimate, [*run.T, *base.T], gain)


def _sure(estimate: Estimate, sums: list[Any], gain: Callable[[Numbers], Numbers]) -> Estimate:
    """The estimate with the interval of its gain, where there are rows enough."""
    found: Interval | None = jackknife(np.stack(sums, 1).astype(float), gain) if estimate.rows >= FEWEST else None
    return estimate if found is None else replace(estimate, interval=(found.low, found.high), error=found.error)
