"""A model that grades with a label."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.errors import DataError
from bottega.metrics.graders import GradedText, UngradableError, parse_grader

GRADER = {
    "type": "label_model",
    "model": "judge",
    "labels": ["good", "not good", "bad"],
    "passing_labels": ["good"],
    "input": [{"role": "user", "content": "Judge {{sample.output_text}}"}],
}


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("good", 1),
        ("Good.", 1),
        ("I say: bad", 0),
        ("it is not good", 0),
        ("good, not bad", 1),
        ("A goodly bad one", 0),
    ],
)
def test_its_label_passes_or_not(answer: str, grade: float) -> None:
    asked: list[Any] = []

    def ask(*question: Any) -> str:
        asked.append(question)
        return answer

    assert parse_grader(GRADER).grade(GradedText("a parcel", ask_model=ask)) == grade
    ((model, messages, _),) = asked
    assert (model, messages[0]["content"]) == ("judge", "Judge a parcel")
    assert messages[-1]["content"].endswith("good, not good, bad.")


def test_what_is_no_label_is_not_graded() -> None:
    with pytest.raises(UngradableError) as raised:
        parse_grader(GRADER).grade(GradedText("a", ask_model=lambda *_: "perhaps"))
    assert raised.value.flag == "model_grader_parse_error"
    with pytest.raises(DataError, match="the passing label fine is none of the labels"):
        parse_grader({**GRADER, "passing_labels": ["fine"]})
