"""A number of a run beside the same of what it must beat, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bottega.evaluation.stats import bootstrap, macro_f1, paired_difference

FEWEST = 10
"""Rows below which a bootstrap claims more than it knows, and none is made."""

Finding = Literal["better", "worse", "unsure"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number of the run, the same of the base, and the interval of run minus base.

    base      None where there is nothing to compare with
    interval  None there too, and where there are too few rows for one
    higher    more is better
    """

    metric: str
    rows: int
    run: float
    base: float | None
    interval: tuple[float, float] | None
    higher: bool = True

    @property
    def finding(self) -> Finding | None:
        if self.interval is None:
            return None
        low, high = self.interval
        if low <= 0 <= high:
            return "unsure"
        return "better" if (low > 0) == self.higher else "worse"


def share(metric: str, run: Any, base: Any) -> Estimate:
    """How often something is right: [R] of the run and of the base, or None."""
    if base is None:
        return Estimate(metric, len(run), float(np.mean(run)), None, None)
    return Estimate(metric, len(run), float(np.mean(run)), float(np.mean(base)), paired_difference(run, base))


def mean(
    metric: str,
    run: Numbers,
    base: Numbers | None,
    weight: Numbers,
    seed: int,
    of: Callable[[float], float] = float,
    *,
    higher: bool = False,
) -> Estimate:
    """A sum over rows by their summed weight, each [R], the lower the better or the `higher`; `of` is made of it."""
    value = of(run.sum() / weight.sum())
    if base is None:
        return Estimate(metric, len(run), value, None, None, higher)
    before = base  # for the type's sake: not None

    def gain(drawn: Any) -> float:
        total = weight[drawn].sum()
        return of(run[drawn].sum() / total) - of(before[drawn].sum() / total)

    return Estimate(metric, len(run), value, of(base.sum() / weight.sum()), _sure(gain, len(run), seed), higher)


def classes(right: Any, named: Any, base: Any, seed: int) -> Iterator[Estimate]:
    """Accuracy and macro-F1 of class numbers, each [R]."""
    yield share("label accuracy", named == right, None if base is None else base == right)

    def gain(drawn: Any) -> float:
        return macro_f1(right[drawn], named[drawn]) - macro_f1(right[drawn], base[drawn])

    interval = None if base is None else _sure(gain, len(right), seed)
    before = None if base is None else macro_f1(right, base)
    yield Estimate("macro-F1", len(right), macro_f1(right, named), before, interval)


def f1(metric: str, run: Any, base: Any, seed: int) -> Estimate:
    """F1 over all rows together; [R, 2] each: what agrees with what is there, and what was found plus what is there."""

    def value(counts: Any) -> float:
        agreed, either = counts.sum(0)
        return float(2 * agreed / max(either, 1))

    interval = _sure(lambda drawn: value(run[drawn]) - value(base[drawn]), len(run), seed)
    return Estimate(metric, len(run), value(run), value(base), interval)


def _sure(gain: Callable[[Any], float], rows: int, seed: int) -> tuple[float, float] | None:
    return bootstrap(gain, rows, seed=seed) if rows >= FEWEST else None
