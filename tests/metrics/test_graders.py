"""Templates of graders, and graders that are none."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.errors import DataError
from bottega.metrics.graders import GradedText, UngradableError, kinds, parse_grader

ITEM = {"name": "x", "list": [{"a": 1}, "two"], "deep": {"er": "y"}}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{item.name}} and {{ item.deep.er }}", "x and y"),
        ("{{item.list[1]}}", "two"),
        ("{{item.list[0].a}}", "1"),
        ("{{item.deep}}", '{"er": "y"}'),
        ("{{sample.output_text}}", '{"k": "v"}'),
        ("{{sample.output_json.k}}", "v"),
        ("{{other.name}} {name}", "{{other.name}} {name}"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert GradedText('{"k": "v"}', ITEM).render(template) == text


@pytest.mark.parametrize(
    "template", ["{{item.nope}}", "{{item.list[7]}}", "{{item.name.a}}", "{{sample.output_json.k}}"]
)
def test_variables_that_are_not_there(template: str) -> None:
    with pytest.raises(UngradableError) as raised:
        GradedText("plain", ITEM).render(template)
    assert raised.value.flag == "invalid_variable_error"


@pytest.mark.parametrize(
    "document",
    [None, {}, {"type": "magic"}, {"type": "python", "source": "x"}, {"type": "string_check"}, {"type": ["a"]}],
)
def test_what_is_no_grader(document: Any) -> None:
    with pytest.raises(DataError):
        parse_grader(document)


def test_the_types() -> None:
    assert {"string_check", "text_similarity", "score_model", "multi"} <= set(kinds())
