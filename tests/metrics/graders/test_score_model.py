"""A model that grades."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.errors import DataError
from bottega.metrics.graders import GRADE_TOKENS, GradedText, UngradableError, parse_grader
from bottega.sampling import Sampling

GRADER = {
    "type": "score_model",
    "model": "judge",
    "range": [0, 10],
    "input": [{"role": "user", "content": [{"type": "text", "text": "Grade {{sample.output_text}}: "}]}],
    "sampling_params": {"seed": 3},
}


@pytest.mark.parametrize(
    ("answer", "grade"), [("7", 7), ("I give 7.5 of 10", 7.5), ('{"result": 3}', 3), ('{"score": -2}', 0), ("99", 10)]
)
def test_its_number_is_the_grade_within_the_range(answer: str, grade: float) -> None:
    asked: list[Any] = []

    def ask(*question: Any) -> str:
        asked.append(question)
        return answer

    assert parse_grader(GRADER).grade(GradedText("a parcel", ask_model=ask)) == grade
    ((model, messages, settings),) = asked
    assert (model, messages[0]["content"]) == ("judge", "Grade a parcel: ")
    assert settings == Sampling(tokens=GRADE_TOKENS, seed=3)
    assert "from 0 to 10" in messages[-1]["content"]


def test_what_is_no_number_is_not_graded() -> None:
    for ask, flag in ((lambda *_: "good", "model_grader_parse_error"), (None, "model_grader_server_error")):
        with pytest.raises(UngradableError) as raised:
            parse_grader(GRADER).grade(GradedText("a", ask_model=ask))
        assert raised.value.flag == flag


def test_a_model_that_fails_grades_nothing() -> None:
    def ask(*_: Any) -> str:
        raise DataError("a prompt of 545 tokens", where="judge")

    with pytest.raises(UngradableError, match="cannot read it: a prompt of 545 tokens"):
        parse_grader(GRADER).grade(GradedText("a", ask_model=ask))


def test_settings_are_checked() -> None:
    with pytest.raises(DataError, match="must be at least 0"):
        parse_grader({**GRADER, "sampling_params": {"temperature": -1}})
