"""A metric of the run beside that of a baseline."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.evaluation.estimates import MIN_ROWS, Estimate, paired_estimate, unpaired_estimate
from bottega.metrics.scores import proportion, row_mean


@pytest.mark.parametrize(
    ("interval", "higher", "finding"),
    [((0.1, 0.2), True, "better"), ((0.1, 0.2), False, "worse"), ((-0.1, 0.2), True, "inconclusive"),
     ((-0.2, -0.1), False, "better"), (None, True, None), ((0.0, 0.2), True, "inconclusive"),
     ((0.1, 0.2), None, None)],
)  # fmt: skip
def test_the_finding_of_an_interval(interval: tuple[float, float] | None, higher: bool, finding: str | None) -> None:
    assert Estimate("m", 10, 0.5, 0.4, interval, higher).finding == finding


def test_a_gain_is_positive_where_the_run_is_better() -> None:
    assert Estimate("m", 10, 0.5, 0.4, (0.1, 0.3), True).gain == (0.1, 0.3)
    assert Estimate("m", 10, 0.5, 0.4, (0.1, 0.3), False).gain == (-0.3, -0.1)
    assert Estimate("m", 10, 0.5, 0.4, None, True).gain is None
    assert Estimate("m", 10, 0.5, 0.4, (0.1, 0.3), None).gain is None


def test_an_estimate_as_text_and_as_plain_data() -> None:
    estimate = Estimate("f1_macro", 10, 0.5, 0.25, (0.1, 0.4), True, 0.05)
    assert estimate.formatted() == ("0.500", "0.250", "+0.100 to +0.400")
    assert Estimate("loss", 10, 0.5, None, None).formatted() == ("0.500", "", "")
    assert estimate.document() == {
        "metric": "f1_macro", "label": "macro F1", "rows": 10, "run": 0.5, "base": 0.25, "interval": (0.1, 0.4),
        "higher": True, "error": 0.05, "finding": "better",
    }  # fmt: skip


def test_an_unpaired_estimate_leaves_unknown_rows_out() -> None:
    estimate = unpaired_estimate(row_mean("mae", [1.0, np.nan, 4.0], higher=False))
    assert (estimate.rows, estimate.run, estimate.base, estimate.interval) == (2, 2.5, None, None)
    assert estimate.higher is False


def test_two_models_are_compared_on_the_rows_that_both_know() -> None:
    run, base = row_mean("mae", [1.0, np.nan, 4.0, 6.0]), row_mean("mae", [2.0, 3.0, np.nan, 9.0])
    estimate = paired_estimate(run, base)
    assert estimate is not None
    assert (estimate.rows, estimate.run, estimate.base) == (2, 3.5, 5.5)
    assert estimate.interval is None, "two rows are too few"
    assert estimate.each is not None
    assert estimate.each[0].tolist()[::3] == [1.0, 6.0]
    assert paired_estimate(row_mean("mae", [1.0, np.nan]), row_mean("mae", [np.nan, 1.0])) is None


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    draw = np.random.default_rng(0)
    run, base = draw.normal(1, 1, 40), draw.normal(0, 1, 40)
    estimate = paired_estimate(row_mean("m", run), row_mean("m", base))
    assert estimate is not None
    assert estimate.interval is not None
    difference = run - base
    error = difference.std(ddof=1) / 40**0.5
    half = 2.0226909 * error  # the 97.5 % quantile of Student's t with 39 degrees of freedom
    assert estimate.error == pytest.approx(error)
    assert estimate.interval == pytest.approx((difference.mean() - half, difference.mean() + half))


def test_fractions_have_an_interval_with_few_rows_too_and_means_have_not() -> None:
    right, wrong = np.ones(MIN_ROWS - 1), np.zeros(MIN_ROWS - 1)
    fractions = paired_estimate(proportion("accuracy", right), proportion("accuracy", wrong))
    means = paired_estimate(row_mean("m", right), row_mean("m", wrong))
    assert fractions is not None
    assert means is not None
    assert fractions.finding == "better"
    assert (means.interval, means.finding) == (None, None)


def test_a_higher_confidence_and_rows_of_a_group_widen_the_interval() -> None:
    draw = np.random.default_rng(0)
    questions = np.repeat(np.arange(20), 5)
    # All answers to a question are right or wrong together: there are 20 independent rows, not 100.
    right = draw.integers(0, 2, 20)[questions]
    run, base = proportion("accuracy", right), proportion("accuracy", np.zeros(100))

    def width(**options: object) -> float:
        estimate = paired_estimate(run, base, **options)  # type: ignore[arg-type]
        assert estimate is not None
        assert estimate.interval is not None
        return estimate.interval[1] - estimate.interval[0]

    assert width(confidence=0.99) > 1.2 * width()
    assert width(groups=questions) > 1.8 * width()
    assert width(groups=np.arange(100)) == width()
