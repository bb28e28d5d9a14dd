"""Confidence intervals of metrics. Comparisons are paired: two models answer the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
# With fewer groups, the jackknife's estimate of the variance is too noisy, and `student_quantile` not exact.
MIN_GROUPS = 5

# The probability of detecting a real difference that studies are usually planned for.
POWER = 0.8

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def proportion_interval(right: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (1927) for a proportion: never outside 0 to 1, and never of width 0."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    proportion, z2 = right / count, z * z / count
    middle, half = proportion + z2 / 2, z * math.sqrt((proportion * (1 - proportion) + z2 / 4) / count)
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


def paired_difference(
    first: Sequence[bool] | ArrayLike, second: Sequence[bool] | ArrayLike, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the difference of two proportions over the same rows, `first` minus `second`.

    Newcombe (1998), Statistics in Medicine 17, method 10: Wilson's limits joined with the correlation of the pairs.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    count = len(a)
    if count == 0 or len(b) != count:
        raise ValueError(f"{count} and {len(b)} rows cannot be paired")
    # Python integers: a product of four counts may overflow 64 bits.
    both, only_a, only_b, neither = (int((x & y).sum()) for x, y in ((a, b), (a, ~b), (~a, b), (~a, ~b)))
    p, q = a.mean(), b.mean()
    (p_low, p_high), (q_low, q_high) = (proportion_interval(int(x.sum()), count, confidence) for x in (a, b))
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi = 0.0
    if margins:
        numerator = both * neither - only_a * only_b
        # Newcombe's continuity correction, for a positive correlation only.
        phi = (max(numerator - count / 2, 0) if numerator > 0 else numerator) / math.sqrt(margins)
    low = math.sqrt((p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2)
    high = math.sqrt((p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2)
    return float(p - q - low), float(p - q + high)


class Interval(NamedTuple):
    """Bounds of an estimate and its standard error."""

    low: float
    high: float
    error: float


def jackknife(
    sums: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    groups: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Jackknife interval of a statistic of sums over rows (Tukey 1958; Efron and Stein 1981).

    sums       [R, K] what each row adds to the sums
    statistic  [..., K] sums → [...] statistic
    groups     [R] ids of rows that are left out together, such as questions about one text

    Student's t with one degree of freedom less than there are groups; None where there are fewer than `MIN_GROUPS`. In
    simulations it covers the true value more evenly than bootstrap percentiles, which are too narrow for some hundred
    rows, and it is deterministic: tests/metrics/test_intervals.py.
    """
    if groups is not None:
        _, group = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.stack([np.bincount(group, column) for column in sums.T], 1)
    count = len(sums)
    if count < MIN_GROUPS:
        return None
    # Sums make leaving one out a subtraction: no statistic is computed from all rows R times.
    whole = sums.sum(0)  # [K]
    value, left_out = float(statistic(whole)), statistic(whole - sums)  # left_out: [R], each without one row or group
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    reach = student_quantile(0.5 + confidence / 2, count - 1) * error
    return Interval(value - reach, value + reach, error)


def student_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t by the Cornish–Fisher expansion (1937), to 0.001 from five degrees of freedom on."""
    # SciPy has it, but would be a dependency for this alone.
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / degrees**power for power, term in enumerate(terms, 1)))


def bonferroni_confidence(comparisons: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each of several intervals that together have `confidence` (Bonferroni correction)."""
    return 1 - (1 - confidence) / max(comparisons, 1)


def rows_needed(error: float, rows: int, margin: float, power: float = POWER) -> int | None:
    """How many rows would detect a difference of `margin` with this power, given the standard error of `rows` rows."""
    if margin <= 0 or error <= 0:
        return None
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) + NormalDist().inv_cdf(power)
    return math.ceil(rows * (z * error / margin) ** 2)


def f1(sums: Floats) -> Floats:
    """[..., 2] true positives, and predicted plus actual positives → [...] F1; 0 where there are none."""
    return np.asarray(2 * sums[..., 0] / np.maximum(sums[..., 1], 1))


def class_sums(right: Ints, predicted: Ints, classes: int) -> Floats:
    """[R, 2C] what each row adds to the true positives of each class, and to its predicted plus actual positives.

    A predicted id below 0 is no class.
    """
    one_hot = np.vstack([np.eye(classes), np.zeros(classes)])  # [C + 1, C], the last row for "no class"
    predicted = np.where(predicted < 0, classes, predicted)
    return np.concatenate([one_hot[right] * (right == predicted)[:, None], one_hot[right] + one_hot[predicted]], 1)


def macro_f1(sums: Floats) -> Floats:
    """[..., 2C] sums of `class_sums` → [...] the mean F1 of the classes that were predicted or are right."""
    # A class that is neither has no F1: counting it as 0 would lower the mean of a small sample.
    hits, positives = np.split(sums, 2, axis=-1)
    scores = 2 * hits / np.maximum(positives, 1)  # [..., C]
    return np.asarray(scores.sum(-1) / np.maximum((positives > 0).sum(-1), 1))
