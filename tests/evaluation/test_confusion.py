"""Confusion matrices and calibration."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.evaluation.confusion import ClassPredictions

RIGHT, SAID = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 2, 0])


def test_confusions_are_counted() -> None:
    named = ClassPredictions(["a", "b", "c"], RIGHT, SAID)
    assert named.matrix().tolist() == [[1, 2, 0], [0, 1, 1], [1, 0, 0]]
    assert named.confusions() == [("a", "b", 2), ("b", "c", 1), ("c", "a", 1)]
    assert named.confusions(1) == [("a", "b", 2)]
    assert named.calibration_error() is None
    assert "calibration" not in named.document()


def test_the_matrix_of_many_labels_is_left_out() -> None:
    many = ClassPredictions([str(number) for number in range(40)], RIGHT, SAID)
    assert "matrix" not in many.document()
    assert many.document()["confusions"] == [["0", "1", 2], ["1", "2", 1], ["2", "0", 1]]


def test_calibration_compares_confidence_with_accuracy() -> None:
    chance = np.array([0.95, 0.91, 0.55, 0.52, 1.0, 0.3])
    named = ClassPredictions(["a", "b", "c"], RIGHT, SAID, chance)
    bins = named.calibration()
    assert [one.rows for one in bins] == [1, 2, 3]
    assert bins[1] == pytest.approx((0.535, 0.5, 2))
    assert bins[2].accuracy == pytest.approx(1 / 3)
    wanted = (0.3 + 2 * 0.035 + 3 * abs((0.95 + 0.91 + 1.0) / 3 - 1 / 3)) / 6
    assert named.calibration_error() == pytest.approx(wanted)


def test_a_calibrated_model_has_no_calibration_error() -> None:
    draw = np.random.default_rng(0)
    chance = draw.uniform(0.5, 1, 20_000)
    hit = draw.random(20_000) < chance
    named = ClassPredictions(["a", "b"], np.zeros(20_000, np.int64), np.where(hit, 0, 1), chance)
    assert named.calibration_error() == pytest.approx(0, abs=0.01)
