"""A learning curve extrapolated to more rows, with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bottega.planning.learning_curve import CurvePoint, Extrapolation, extrapolate


def extrapolations(values: dict[int, float], error: float, *, share: bool) -> list[Extrapolation]:
    points = [
        CurvePoint(rows, value, error, 100 * (place + 1), 10.0 * (place + 1), True)
        for place, (rows, value) in enumerate(values.items())
    ]
    return list(extrapolate(points, [1000, 2000], share=share))


def falling(rows: int, floor: float) -> float:
    return 1 - floor - 2.0 * rows**-0.4


@pytest.mark.parametrize(
    "curve", [lambda n: falling(n, 0.0), lambda n: falling(n, 0.2), lambda n: 1 / (1 + 250 / n)], ids=["0", "0.2", "S"]
)
def test_the_curve_is_extrapolated(curve: Callable[[int], float]) -> None:
    """Errors, or their odds, that fall as a power of the rows, to a floor or to none: the interval holds what comes."""
    draw, held = np.random.default_rng(0), []
    for _ in range(100):
        true = {rows: curve(rows) for rows in (50, 100, 200, 1000)}
        seen = {rows: true[rows] + float(draw.normal(0, 0.02)) for rows in (50, 100, 200)}
        one, twice = extrapolations(seen, 0.02, share=True)
        held.append(one.low <= true[1000] <= one.high)
        assert one.low <= one.value <= one.high
        assert twice.value >= one.value
        assert one.high - one.low < 0.5
    assert np.mean(held) >= 0.95


def test_training_on_all_rows_takes_the_updates_of_the_parts_or_one_pass() -> None:
    one, twice = extrapolations({50: 0.5, 100: 0.6, 200: 0.7}, 0.02, share=True)
    assert one.passes == pytest.approx(300 * 16 / 1000), "three hundred updates of sixteen"
    assert one.seconds == pytest.approx(30)
    assert twice.passes == pytest.approx(300 * 16 / 2000)
    points = [CurvePoint(rows, 0.5, 0.02, 10, 1.0, True) for rows in (50, 100, 200)]
    (large,) = extrapolate(points, [16_000], share=True)
    assert large.passes == 1
    assert large.seconds == pytest.approx(100)


def test_a_loss_falls_as_a_power_and_never_rises() -> None:
    one, _ = extrapolations({rows: 5 * rows**-0.2 for rows in (50, 100, 200)}, 0.001, share=False)
    assert one.low == pytest.approx(5 * 1000**-0.2, rel=0.02), "with no floor"
    assert one.high < 5 * 200**-0.2
    one, _ = extrapolations({rows: 0.5 - rows / 10_000 for rows in (50, 100, 200)}, 0.001, share=True)
    assert one.value == pytest.approx(0.49, abs=0.01), "more rows are not taken to do harm"


def test_without_a_plateau_the_interval_begins_at_the_last_point() -> None:
    points = [CurvePoint(rows, value, 0.001, 10, 1.0, True) for rows, value in ((50, 0.5), (100, 0.6), (200, 0.7))]
    (done,) = extrapolate(points, [5000], share=True)
    points[-1] = replace(points[-1], done=False)
    (open_end,) = extrapolate(points, [5000], share=True)
    assert done.low > 0.72
    assert open_end.low == pytest.approx(0.7, abs=0.01), "its successor may be better because of more updates"
    assert open_end.high == pytest.approx(done.high, abs=0.05)


def test_fractions_stay_within_their_range() -> None:
    found = [*extrapolations({50: 0.98, 100: 0.99, 200: 1.0}, 0.02, share=True)]
    assert all(0 < one.low <= one.value <= one.high < 1 for one in found)
    assert found == extrapolations({50: 0.98, 100: 0.99, 200: 1.0}, 0.02, share=True), "samples have a fixed seed"
