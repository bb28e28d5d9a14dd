"""Estimates with their uncertainty. Everything is paired: two models answer the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
MIN_GROUPS = 5
"""Groups below which leaving one out says little."""

POWER = 0.8
"""Chance to see a difference that is there, as exams are usually planned."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def proportion_interval(right: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (1927) for `right` of `count`: never outside 0 to 1, and never of no width."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, z2 = right / count, z * z / count
    middle, half = share + z2 / 2, z * math.sqrt((share * (1 - share) + z2 / 4) / count)
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


def paired_difference(
    one: Sequence[bool] | ArrayLike, other: Sequence[bool] | ArrayLike, confidence: float = CONFIDENCE
) -> tuple[float, float]:
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
    (p_low, p_high), (q_low, q_high) = (proportion_interval(int(x.sum()), count, confidence) for x in (a, b))
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = 0.0
    if margins:
        numerator = both * neither - first * second
        # With a continuity correction, where the pairs go together.
        phi = (max(numerator - count / 2, 0) if numerator > 0 else numerator) / math.sqrt(margins)
    low = math.sqrt((p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2)
    high = math.sqrt((p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2)
    return float(p - q - low), float(p - q + high)


class Interval(NamedTuple):
    """Bounds of an estimate, and its standard error."""

    low: float
    high: float
    error: float


def jackknife(
    sums: Floats, of: Callable[[Floats], Floats], *, groups: ArrayLike | None = None, confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of `of` of the sums over rows, by leaving each out in turn (Tukey 1958; Efron and Stein 1981).

    sums    [R, k] what each row adds to the numbers that the statistic is made of
    of      [..., k] sums → [...] statistic
    groups  [R] rows that go together, such as questions about one text: they are left out together

    Student's t of one degree less than there are groups. None where there are fewer than five. In simulated exams it
    covers the truth more evenly than the bootstrap's percentiles, which are too narrow for some hundred rows, and
    needs no chance: tests/evaluation/test_stats.py.
    """
    if groups is not None:
        _, place = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.stack([np.bincount(place, column) for column in sums.T], 1)
    count = len(sums)
    if count < MIN_GROUPS:
        return None
    whole = sums.sum(0)
    value, left = float(of(whole)), of(whole - sums)
    error = math.sqrt((count - 1) / count * float(((left - left.mean()) ** 2).sum()))
    reach = student_quantile(0.5 + confidence / 2, count - 1) * error
    return Interval(value - reach, value + reach, error)


def student_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t: by Cornish and Fisher's expansion (1937), exact to 0.001 from five degrees on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / degrees**power for power, term in enumerate(terms, 1)))


def bonferroni_confidence(comparisons: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each of several intervals by which all together have `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(comparisons, 1)


def rows_needed(error: float, rows: int, margin: float, power: float = POWER) -> int | None:
    """Rows by which a difference of `margin` would be seen with this power, as `rows` gave this standard error."""
    if margin <= 0 or error <= 0:
        return None
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) + NormalDist().inv_cdf(power)
    return math.ceil(rows * (z * error / margin) ** 2)


def f1(sums: Floats) -> Floats:
    """[..., 2] what agrees, and what was found plus what is there → [...] F1; 0 where there is nothing."""
    return np.asarray(2 * sums[..., 0] / np.maximum(sums[..., 1], 1))


def class_sums(right: Ints, named: Ints, classes: int) -> Floats:
    """[R, 2C] what each row adds to the hits of its class, and to how often each was named or is right.

    A number below 0 is none of the classes: nothing was named.
    """
    each = np.vstack([np.eye(classes), np.zeros(classes)])
    named = np.where(named < 0, classes, named)
    return np.concatenate([each[right] * (right == named)[:, None], each[right] + each[named]], 1)


def macro_f1(sums: Floats) -> Floats:
    """[..., 2C] sums of `of_classes` → [...] the mean F1 of the classes that were named or are right."""
    hits, seen = np.split(sums, 2, axis=-1)
    scores = 2 * hits / np.maximum(seen, 1)
    return np.asarray(scores.sum(-1) / np.maximum((seen > 0).sum(-1), 1))
