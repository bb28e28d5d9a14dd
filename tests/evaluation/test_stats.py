"""Intervals cover what they should, and claim no certainty that few rows cannot give."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.evaluation.stats import bootstrap, macro_f1, paired_difference, proportion_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    assert proportion_interval(right, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("p", "q", "shared"), [(0.9, 0.3, 0.0), (0.9, 0.8, 0.7), (0.5, 0.5, 0.5), (0.98, 0.95, 0.9)])
@pytest.mark.parametrize("count", [40, 200])
def test_the_interval_covers_the_true_difference(p: float, q: float, shared: float, count: int) -> None:
    """`shared` of the rows are decided alike for both, so that the pairs go together."""
    draw = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        common, one, other = draw.random((3, count))
        alike = draw.random(count) < shared
        low, high = paired_difference(np.where(alike, common, one) < p, np.where(alike, common, other) < q)
        covered.append(low <= p - q <= high)
    assert np.mean(covered) >= 0.93, "and more where rows are few and answers nearly all alike"


def test_pairs_that_go_together_tell_more() -> None:
    one = np.arange(100) < 80
    widths = []
    for other in (np.arange(100) < 60, np.arange(100) >= 40):
        low, high = paired_difference(one, other)
        assert low < 0.2 < high
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_the_difference_turns_its_sign_with_the_order() -> None:
    one, other = np.arange(50) % 3 == 0, np.arange(50) % 7 == 0
    low, high = paired_difference(one, other)
    assert paired_difference(other, one) == pytest.approx((-high, -low))


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_no_certainty_from_equal_answers(count: int) -> None:
    low, high = paired_difference([True] * count, [True] * count)
    assert -1 <= low < 0 < high <= 1
    low, high = paired_difference([True] * count, [False] * count)
    assert -1 <= low < 1
    assert high == pytest.approx(1)


def test_rows_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([True], [True, False])
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([], [])


def test_many_rows_do_not_overflow() -> None:
    one = np.arange(400_000) % 2 == 0
    low, high = paired_difference(one, np.arange(400_000) % 4 == 0)
    assert low < 0.25 < high
    assert high - low < 0.01


def test_the_bootstrap_covers_the_true_mean() -> None:
    draw = np.random.default_rng(0)
    covered = []
    for trial in range(200):
        values = draw.exponential(size=60)
        low, high = bootstrap(lambda rows, values=values: float(values[rows].mean()), 60, seed=trial)
        covered.append(low <= 1 <= high)
    assert np.mean(covered) > 0.88
    assert bootstrap(lambda rows: float(rows.mean()), 9, seed=1) == bootstrap(
        lambda rows: float(rows.mean()), 9, seed=1
    )


def test_macro_f1_by_hand() -> None:
    right, named = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    assert macro_f1(right, named) == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert macro_f1(right, right) == 1.0
    assert macro_f1(np.array([3, 3]), np.array([3, 3])) == 1.0, "classes that do not occur do not count"
