"""String checks."""

from __future__ import annotations

import pytest

from bottega.metrics.graders import GradedText, parse_grader


@pytest.mark.parametrize(
    ("operation", "answer", "grade"),
    [
        ("eq", "Siena", 1),
        ("eq", "siena", 0),
        ("ne", "siena", 1),
        ("ne", "Siena", 0),
        ("like", "It is Siena.", 1),
        ("like", "It is siena.", 0),
        ("ilike", "It is siena.", 1),
        ("ilike", "It is Pisa.", 0),
    ],
)
def test_checks(operation: str, answer: str, grade: float) -> None:
    texts = {"input": "{{sample.output_text}}", "reference": "{{item.city}}"}
    grader = parse_grader({"type": "string_check", "name": "a", "operation": operation, **texts})
    assert grader.grade(GradedText(answer, {"city": "Siena"})) == grade
