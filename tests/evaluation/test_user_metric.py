"""A metric of generated answers in a file of the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bottega.errors import RecipeError
from bottega.evaluation.user_metric import load_user_metric


def test_a_metric_in_a_file_scores_answers(tmp_path: Path) -> None:
    file = tmp_path / "polite.py"
    file.write_text("def score(written, right):\n    return 'please' in written\n")
    made = load_user_metric(str(file))
    scores = made.scores(["please go", "go", None], [["x"], ["x", "y"], ["x"]])
    assert made.name == "polite"
    assert np.nanmean(scores.each) == 0.5
    for text, kind, words in (
        ("def mark(a, b): return 1\n", RecipeError, "no function score"),
        ("def score(written, right):\n    return None\n", RecipeError, "which is not a finite number"),
        ("def score(written, right):\n    return 1 / 0\n", RecipeError, "line 2"),
        ("def score(:\n", RecipeError, "line 1"),
    ):
        bad = tmp_path / f"bad{len(text)}.py"
        bad.write_text(text)
        with pytest.raises(kind) as caught:
            load_user_metric(str(bad)).sums("a", ["b"])
        assert words in str(caught.value)
    with pytest.raises(RecipeError, match="no such file"):
        load_user_metric(str(tmp_path / "none.py"))


def test_of_several_reference_answers_the_best_counts(tmp_path: Path) -> None:
    file = tmp_path / "shared.py"
    file.write_text("def score(written, right):\n    return len(set(written) & set(right)) / len(set(right))\n")
    metric = load_user_metric(str(file))
    assert list(metric.sums("ab", ["xy", "abcd", "a"])) == [1.0, 1.0]
    assert metric.applies_to(["anything", ""])


def test_a_metric_named_like_a_built_in_one_gets_another_name(tmp_path: Path) -> None:
    file = tmp_path / "accuracy.py"
    file.write_text("def score(written, right):\n    return 1\n")
    assert load_user_metric(str(file)).name == "user_accuracy"
