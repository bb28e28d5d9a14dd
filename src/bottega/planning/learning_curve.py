"""A learning curve through a few points, extrapolated to more rows with an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bottega.data.sampler import DEFAULT_EXAMPLES

# Curves sampled from what is known of the points.
SAMPLES = 4000

# Smallest fraction of wrong, or right, answers: a few hundred rows cannot show less, and a logarithm needs more than 0.
MIN_FRACTION = 1e-3

# The floor, which no number of rows gets below, is sampled uniformly from NO_FLOOR to MAX_FLOOR, relative to the error
# at the best point; below 0 it is 0, so that about a third of the curves has none. With these values, intervals cover
# simulated curves without a floor as often as those with one.
MAX_FLOOR, NO_FLOOR = 0.9, -0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CurvePoint:
    """The metric after training on a number of rows, its standard error, and updates and seconds up to here.

    done  whether the loss had stopped improving before the updates ran out
    """

    rows: int
    value: float
    error: float
    updates: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class Extrapolation:
    """The metric expected after training on `rows`, a 95 % interval, and the passes and seconds that it takes."""

    rows: int
    value: float
    low: float
    high: float
    passes: float
    seconds: float


def extrapolate(points: Sequence[CurvePoint], sizes: Sequence[int], *, share: bool) -> Iterator[Extrapolation]:
    """What other numbers of rows would bring.

    The error is taken to fall as a power of the number of rows, down to a floor (Hestness et al. 2017,
    arXiv 1712.00409). Three points do not determine the floor, so it is sampled too. If a point is not `done`, its
    successor may be better because of more updates and not of more rows: the interval then starts at the last point.

    share  the metric is a fraction of right answers: the odds of a wrong one are extrapolated, which equal the
           fraction of wrong answers when these are few, and stay in range. Otherwise the metric is a loss.
    """
    log_rows = np.log([point.rows for point in points])  # [P]
    value, error = (np.array([getattr(point, name) for point in points]) for name in ("value", "error"))
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(SAMPLES, len(points))) * error + value  # [S, P]
    wrong = _odds_of_wrong(samples) if share else np.maximum(samples, MIN_FRACTION)
    floor = np.maximum(generator.uniform(NO_FLOOR, MAX_FLOOR, SAMPLES), 0) * wrong.min(1)  # [S]
    last = points[-1]
    for size in sizes:
        remaining = floor + _fit_power_law(log_rows, wrong - floor[:, None], math.log(size))
        if not all(point.done for point in points):
            remaining = np.concatenate([remaining, wrong[:, -1]])
        # Back from odds to a fraction: right = 1 / (1 + odds of wrong).
        low, middle, high = np.quantile(1 / (1 + remaining) if share else remaining, (0.025, 0.5, 0.975))
        # As many updates as the points took together, and each row at least once.
        passes = max(last.updates * DEFAULT_EXAMPLES / size, 1.0)
        seconds = last.seconds / last.updates * passes * size / DEFAULT_EXAMPLES
        yield Extrapolation(size, float(middle), float(low), float(high), passes, seconds)


def _odds_of_wrong(right: Floats) -> Floats:
    """Odds of a wrong answer, from the fraction of right ones."""
    # Samples around a value near 0 or 1 may lie outside that range.
    right = np.clip(right, MIN_FRACTION, 1 - MIN_FRACTION)
    return (1 - right) / right


def _fit_power_law(log_rows: Floats, wrong: Floats, log_size: float) -> Floats:
    """[S] error at `log_size`, by S least-squares lines through log(wrong) [S, P] over log_rows [P]."""
    logs, centered = np.log(wrong), log_rows - log_rows.mean()
    # More rows never make it worse: the slope is at most 0.
    slope = np.minimum((logs * centered).sum(1) / (centered**2).sum(), 0.0)
    return np.asarray(np.exp(logs.mean(1) + slope * (log_size - log_rows.mean())))
