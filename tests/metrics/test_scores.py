"""Scores of rows as sums, and the metrics computed from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bottega.evaluation.estimates import paired_estimate
from bottega.metrics.answers.rouge import Rouge
from bottega.metrics.scores import Scores, class_scores, micro_f1, proportion, ratio, row_mean, weighted_mean


def test_rows_without_an_answer_are_left_out() -> None:
    right = [["the cat sat"], ["the dog ran"], ["the mat"]]
    one = Rouge().scores(["the cat sat", None, "the mat"], right)
    other = Rouge().scores([None, "the dog ran", "a mat"], right)
    assert one.known.tolist() == [True, False, True]
    found = paired_estimate(one, other)
    assert found is not None
    assert (found.rows, found.run) == (1, 1.0)
    assert paired_estimate(one, Rouge().scores([None, "the dog ran", None], right)) is None


SUMS = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]])


def test_scores_of_some_rows_are_placed_among_all_rows() -> None:
    scores = Scores("x", SUMS[[0, 2]], ratio).within([3, 1], 5)
    assert scores.known.tolist() == [False, True, False, True, False]
    assert scores.sums[[3, 1]].tolist() == SUMS[[0, 2]].tolist()
    assert scores.without([1]).known.tolist() == [False, False, False, True, False]
    assert scores.known.sum() == 2, "the scores themselves stay as they are"


def test_a_metric_has_values_per_row_only_if_it_is_defined_for_one_row() -> None:
    assert Scores("x", SUMS, ratio).each[[0, 2]].tolist() == [0.5, 0.75]  # type: ignore[index]
    assert Scores("x", SUMS, ratio, rowwise=False).each is None


def test_a_ratio_with_denominator_0_is_0() -> None:
    assert ratio(np.array([[0.0, 0.0], [1.0, 4.0]])).tolist() == [0.0, 0.25]


def test_means_ignore_missing_rows() -> None:
    right = proportion("accuracy", [1, 0, np.nan, 1])
    assert right.known.tolist() == [True, True, False, True]
    assert right.binary
    assert right.statistic(right.sums[right.known].sum(0)) == pytest.approx(2 / 3)
    mean = row_mean("loss", [1.0, 3.0], higher=False, transform=np.exp)
    assert mean.statistic(mean.sums.sum(0)) == pytest.approx(math.exp(2))
    assert not mean.higher
    weighted = weighted_mean("loss", [2.0, 3.0], [1.0, 4.0])
    assert (weighted.statistic(weighted.sums.sum(0)), weighted.higher) == (1.0, False)


def test_micro_f1_is_computed_over_all_rows_together() -> None:
    scores = micro_f1("span_f1", [[1, 2], [0, 4]])
    assert scores.statistic(scores.sums.sum(0)) == pytest.approx(2 * 1 / 6)


def test_accuracy_and_macro_f1_of_classes() -> None:
    accuracy, macro = class_scores([0, 0, 1, 1], [0, 1, 1, -1], 2)
    assert accuracy.statistic(accuracy.sums.sum(0)) == 0.5
    # Class 0 has precision 1 and recall 1/2; class 1 has precision 1/2 and recall 1/2.
    assert float(macro.statistic(macro.sums.sum(0))) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert macro.each is None
