"""Intervals cover what they should, and claim no certainty that few rows cannot give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bottega.metrics.intervals import (
    bonferroni_confidence,
    class_sums,
    f1,
    jackknife,
    macro_f1,
    paired_difference,
    proportion_interval,
    rows_needed,
    student_quantile,
)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    assert proportion_interval(right, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("p", "q", "shared"), [(0.9, 0.3, 0.0), (0.9, 0.8, 0.7), (0.5, 0.5, 0.5), (0.98, 0.95, 0.9)])
@pytest.mark.parametrize("count", [40, 200])
def test_the_interval_covers_the_true_difference(p: float, q: float, shared: float, count: int) -> None:
    """A fraction `shared` of the rows has the same outcome for both models, so the pairs are correlated."""
    draw = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        common, one, other = draw.random((3, count))
        alike = draw.random(count) < shared
        low, high = paired_difference(np.where(alike, common, one) < p, np.where(alike, common, other) < q)
        covered.append(low <= p - q <= high)
    assert np.mean(covered) >= 0.93, "and more where rows are few and answers nearly all alike"


def test_correlated_pairs_give_narrower_intervals() -> None:
    one = np.arange(100) < 80
    widths = []
    for other in (np.arange(100) < 60, np.arange(100) >= 40):
        low, high = paired_difference(one, other)
        assert low < 0.2 < high
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_swapping_the_models_flips_the_sign_of_the_difference() -> None:
    one, other = np.arange(50) % 3 == 0, np.arange(50) % 7 == 0
    low, high = paired_difference(one, other)
    assert paired_difference(other, one) == pytest.approx((-high, -low))


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_equal_answers_do_not_give_an_interval_of_width_zero(count: int) -> None:
    low, high = paired_difference([True] * count, [True] * count)
    assert -1 <= low < 0 < high <= 1
    low, high = paired_difference([True] * count, [False] * count)
    assert -1 <= low < 1
    assert high == pytest.approx(1)


def test_rows_of_different_numbers_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([True], [True, False])
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([], [])


def test_many_rows_do_not_overflow() -> None:
    one = np.arange(400_000) % 2 == 0
    low, high = paired_difference(one, np.arange(400_000) % 4 == 0)
    assert low < 0.25 < high
    assert high - low < 0.01


EXAMS = 2000


def losses(draw: np.random.Generator, rows: int) -> np.ndarray:
    """[R, 3] the losses of two models and the tokens of each row, which are of very different lengths."""
    tokens = draw.integers(5, 80, rows).astype(float)
    one = draw.gamma(2, 1, rows)
    other = np.maximum(one + draw.normal(0.1, 0.5, rows), 0.01)
    return np.stack([one * tokens, other * tokens, tokens], 1)


def spans(draw: np.random.Generator, rows: int) -> np.ndarray:
    """[R, 4] agreement and sizes of two taggers on rows with a span on every other."""
    there = draw.poisson(0.5, rows)
    sides = [(hit, hit + draw.poisson(0.2, rows) + there) for hit in (draw.binomial(there, p) for p in (0.6, 0.5))]
    return np.stack([part for side in sides for part in side], 1).astype(float)


def labels(draw: np.random.Generator, rows: int) -> np.ndarray:
    """[R, 24] what two classifiers of six classes, of which two are rare, add to macro-F1."""
    right = draw.choice(6, rows, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    named = [np.where(draw.random(rows) < sure, right, draw.integers(0, 6, rows)) for sure in (0.8, 0.7)]
    # No row may name the last class: one that does stands before them, and is taken out again.
    return np.concatenate([class_sums(right, one, 6) for one in named], 1)


def shares(draw: np.random.Generator, rows: int) -> np.ndarray:
    """[R, 3] the right answers of two models that often agree."""
    one = draw.random(rows) < 0.8
    other = np.where(draw.random(rows) < 0.7, one, draw.random(rows) < 0.6)
    return np.stack([one, other, np.ones(rows)], 1).astype(float)


KINDS: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "mean": (losses, lambda s: s[..., 0] / s[..., 2] - s[..., 1] / s[..., 2]),
    "perplexity": (losses, lambda s: np.exp(s[..., 0] / s[..., 2]) - np.exp(s[..., 1] / s[..., 2])),
    "span F1": (spans, lambda s: f1(s[..., :2]) - f1(s[..., 2:])),
    "macro-F1": (labels, lambda s: macro_f1(s[..., :12]) - macro_f1(s[..., 12:])),
    "share": (shares, lambda s: (s[..., 0] - s[..., 1]) / s[..., 2]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_covers_the_true_value_in_two_thousand_simulations(kind: str) -> None:
    """In 95 % of them, within the error of 2,000 simulations: the standard error is half a per cent."""
    make, of = KINDS[kind]
    draw = np.random.default_rng(5)
    truth = float(of(np.sum([make(draw, 100_000).sum(0) for _ in range(4)], axis=0)))
    covered = []
    for _ in range(EXAMS):
        found = jackknife(make(draw, 200), of)
        assert found is not None
        covered.append(found.low <= truth <= found.high)
    assert 0.94 <= np.mean(covered) <= 0.96


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_rarely_better_than_itself(kind: str) -> None:
    """Of two runs that differ only by chance, one is called better in at most one case of twenty."""
    make, of = KINDS[kind]
    draw, better = np.random.default_rng(8), []
    for _ in range(EXAMS):
        sums = make(draw, 200)
        sides = [0, 1] if sums.shape[1] == 3 else [*range(sums.shape[1])]
        turned = sums[:, [*sides[len(sides) // 2 :], *sides[: len(sides) // 2], *range(len(sides), sums.shape[1])]]
        # Which of two answers is whose, a coin says for each row.
        found = jackknife(np.where(draw.random((200, 1)) < 0.5, sums, turned), of)
        assert found is not None
        better.append(found.low > 0)
    assert np.mean(better) <= 0.05


def test_proportions_of_the_same_model_rarely_differ() -> None:
    draw, better = np.random.default_rng(8), []
    for _ in range(EXAMS):
        one, other = draw.random((2, 200)) < 0.8
        better.append(paired_difference(one, other)[0] > 0)
    assert np.mean(better) <= 0.05


def _average(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0] / sums[..., 1])


def test_correlated_rows_give_wider_intervals() -> None:
    """With ten questions per text, an interval by rows would be too narrow; one by texts is not."""
    draw, groups = np.random.default_rng(9), np.repeat(np.arange(40), 10)
    by_rows, by_texts = [], []
    for _ in range(600):
        values = np.repeat(draw.normal(0, 1, 40), 10) + draw.normal(0, 0.5, 400)
        sums = np.stack([values, np.ones(400)], 1)
        for covered, given in ((by_rows, None), (by_texts, groups)):
            found = jackknife(sums, _average, groups=given)
            assert found is not None
            covered.append(found.low <= 0 <= found.high)
    assert np.mean(by_rows) < 0.7
    assert 0.92 <= np.mean(by_texts) <= 0.98


def test_the_interval_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    found = jackknife(np.stack([values, np.ones(30)], 1), _average)
    assert found is not None
    error = values.std(ddof=1) / 30**0.5
    assert found == pytest.approx((values.mean() - 2.0452 * error, values.mean() + 2.0452 * error, error), abs=1e-4)
    assert jackknife(np.ones((4, 2)), _average) is None


@pytest.mark.parametrize(("degrees", "wanted"), [(5, 2.5706), (9, 2.2622), (30, 2.0423), (1000, 1.9623)])
def test_quantiles_of_students_t(degrees: int, wanted: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(wanted, abs=1e-3)


def test_confidence_is_raised_with_the_number_of_comparisons() -> None:
    assert bonferroni_confidence(1) == 0.95
    assert bonferroni_confidence(5) == pytest.approx(0.99)
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(500):
        exams = [np.stack([draw.normal(size=60), np.ones(60)], 1) for _ in range(5)]
        founds = [jackknife(sums, _average, confidence=bonferroni_confidence(5)) for sums in exams]
        wrong += any(found is not None and (found.low > 0 or found.high < 0) for found in founds)
    assert wrong <= 0.07 * 500


def test_the_computed_number_of_rows_has_a_power_of_80_per_cent() -> None:
    draw = np.random.default_rng(0)
    needed = rows_needed(0.1, 100, 0.15)  # a standard error of 0.1 with 100 rows: a deviation of 1
    assert needed is not None
    seen = []
    for _ in range(1000):
        found = jackknife(np.stack([draw.normal(0.15, 1, needed), np.ones(needed)], 1), _average)
        seen.append(found is not None and found.low > 0)
    assert 0.77 <= np.mean(seen) <= 0.83
    assert rows_needed(0.1, 100, 0) is None


def test_macro_f1_against_a_value_computed_by_hand() -> None:
    right, named = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    assert macro_f1(class_sums(right, named, 3).sum(0)) == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert macro_f1(class_sums(right, right, 3).sum(0)) == 1.0
    threes = np.array([3, 3])
    assert macro_f1(class_sums(threes, threes, 5).sum(0)) == 1.0, "classes that do not occur do not count"
