"""Weights of labels, as a recipe names them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bottega.errors import DataError
from bottega.objectives import build_objective
from bottega.records import Labelled


def weights(value: Any) -> Any:
    return build_objective({"kind": "classify", "weights": value}).weights


def test_weights_are_read_by_the_names_of_labels() -> None:
    assert weights({10: 2.0, 1.0: 3, False: 4, "b": 0}) == {"10": 2, "1": 3, "false": 4, "b": 0}
    assert weights("balanced") == "balanced"
    for wrong, what in (
        ("even", "write balanced"),
        ({"a": -1}, "a number of at least 0"),
        ({"a": "x"}, "a number of at least 0"),
        (3, "balanced"),
    ):
        with pytest.raises(ValidationError, match=what):
            weights(wrong)


def test_weights_that_are_all_0_are_an_error() -> None:
    rows = [Labelled("a line 1", "t", "a"), Labelled("a line 2", "u", "b")]
    with pytest.raises(DataError, match="every label has weight 0") as caught:
        build_objective({"kind": "classify", "weights": {"a": 0, "b": 0}}).count_labels(rows)
    assert caught.value.where == "objective.weights"
    assert build_objective({"kind": "classify", "weights": {"a": 0}}).count_labels(rows) == {"a": 1, "b": 1}
