"""Formulas over grades."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.errors import DataError
from bottega.metrics.graders import GradedText, UngradableError, parse_grader


def check(word: str, name: str = "a") -> dict[str, Any]:
    texts = {"input": "{{sample.output_text}}", "reference": word}
    return {"type": "string_check", "name": name, "operation": "like", **texts}


def grade(formula: str) -> float:
    graders = {"a": check("cat"), "b": check("dog")}
    return parse_grader({"type": "multi", "graders": graders, "calculate_output": formula}).grade(GradedText("a cat"))


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a", 1),
        ("b", 0),
        ("0.25 * a + 0.75 * b", 0.25),
        ("(a + b) / 2", 0.5),
        ("max(a, b) - min(a, b)", 1),
        ("2^3 * a", 8),
        ("-abs(b - a) + sqrt(4) + exp(b) + log(a) + floor(1.9) + ceil(0.1)", 4),
    ],
)
def test_formulas(formula: str, value: float) -> None:
    assert grade(formula) == pytest.approx(value)


@pytest.mark.parametrize("formula", ["a / b", "9 ^ 9 ^ 9", "log(b)", "sqrt(0 - a)", "min()"])
def test_what_has_no_value_is_not_graded(formula: str) -> None:
    with pytest.raises(UngradableError) as raised:
        grade(formula)
    assert raised.value.flag == "formula_parse_error"


@pytest.mark.parametrize(
    "formula", ["", "a +", "c", "__import__('os')", "a.b", "[a][0]", "a if b else a", "'a'", "a" * 2000]
)
def test_anything_else_is_refused_beforehand(formula: str) -> None:
    with pytest.raises(DataError):
        grade(formula)


def test_one_grader_may_stand_alone() -> None:
    grader = parse_grader({"type": "multi", "graders": check("cat", "only"), "calculate_output": "2 * only"})
    assert grader.grade(GradedText("a cat")) == 2
    within = {"type": "multi", "graders": {"a": check("cat")}, "calculate_output": "a"}
    with pytest.raises(DataError, match="within another"):
        parse_grader({"type": "multi", "graders": {"m": within}, "calculate_output": "m"})
