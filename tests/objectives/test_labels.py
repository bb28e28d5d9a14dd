"""Labels as numbers."""

from __future__ import annotations

import pytest

from bottega.errors import DataError
from bottega.objectives._labels import parse_number
from bottega.records import Labelled


@pytest.mark.parametrize(("label", "number"), [("3", 3.0), ("-0.25", -0.25), (" 1e3 ", 1000.0), ("1_000", 1000.0)])
def test_a_label_is_read_as_a_number(label: str, number: float) -> None:
    assert parse_number(Labelled("line 1", "the cat", label)) == number


@pytest.mark.parametrize("label", ["", "much", "nan", "inf", "-Infinity", "1,5"])
def test_a_label_that_is_no_finite_number_is_refused(label: str) -> None:
    with pytest.raises(DataError, match="is not a number") as caught:
        parse_number(Labelled("line 1", "the cat", label))
    assert caught.value.where == "line 1, field label"
    assert "classify" in str(caught.value.fix)
