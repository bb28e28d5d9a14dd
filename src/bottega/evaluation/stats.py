"""Estimates with their uncertainty. Everything is paired: two models answer the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000

Rows = NDArray[np.int64]


def proportion_interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's score interval (1927) for `right` of `count`: never outside 0 to 1, and never of no width."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    share, z2 = right / count, z * z / count
    middle, half = share + z2 / 2, z * math.sqrt((share * (1 - share) + z2 / 4) / count)
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


def paired_difference(one: Sequence[bool] | ArrayLike, other: Sequence[bool] | ArrayLike) -> tuple[float, float]:
    """Interval of the difference of two proportions over the same rows, `one` minus `other`.

    Newcombe (1998), Statistics in Medicine 17, method 10: Wilson's limits joined with the correlation of the pairs.
    """
    a, b = np.asarray(one, bool), np.asarray(other, bool)
    count = len(a)
    if count == 0 or len(b) != count:
        raise ValueError(f"{count} and {len(b)} rows are no pairs")
    # As whole numbers of Python: a product of four counts may leave 64 bits.
    both, first, second, neither = (int((x & y).sum()) for x, y in ((a, b), (a, ~b), (~a, b), (~a, ~b)))
    p, q = a.mean(), b.mean()
    (p_low, p_high), (q_low, q_high) = (proportion_interval(int(x.sum()), count) for x in (a, b))
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = 0.0
    if margins:
        numerator = both * neither - first * second
        # With a continuity correction, where the pairs go together.
        phi = (max(numerator - count / 2, 0) if numerator > 0 else numerator) / math.sqrt(margins)
    low = math.sqrt((p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2)
    high = math.sqrt((p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2)
    return float(p - q - low), float(p - q + high)


def bootstrap(statistic: Callable[[Rows], float], count: int, *, seed: int) -> tuple[float, float]:
    """Percentile interval (Efron 1979) of a statistic of `count` rows, drawn anew with replacement.

    statistic  takes the numbers of the rows drawn; a paired difference looks both models up by the same numbers
    """
    draw = np.random.default_rng(seed)
    found = [statistic(draw.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def macro_f1(right: Rows, named: Rows) -> float:
    """F1 of each class that stands in `right` or `named`, each [R] class numbers; their mean."""
    classes = int(max(right.max(), named.max())) + 1
    hits = np.bincount(right[right == named], minlength=classes)
    seen = np.bincount(right, minlength=classes) + np.bincount(named, minlength=classes)
    return float((2 * hits[seen > 0] / seen[seen > 0]).mean())
