"""The fields of a row are checked for their type where they are read."""

from __future__ import annotations

from datetime import date, time
from typing import Any

import pytest
from parsed_rows import ROWS, one, refused

from bottega.errors import DataError
from bottega.records import Text
from bottega.records.fields import optional_string, parse_integer, parse_json_field


@pytest.mark.parametrize("value", [None, 1, 1.5, True, ["a"], {"a": "b"}])
def test_texts_are_strings(value: Any) -> None:
    for name, field in (
        ("text", "text"),
        ("prompted", "prompt"),
        ("prompted", "completion"),
        ("instruction", "output"),
    ):
        refused(ROWS[name] | {field: value}, what="not a string", where=f"file line 1, field {field}")


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_texts_are_not_empty(text: str) -> None:
    refused({"text": text}, what="empty text", where="file line 1, field text")


def test_texts_are_kept_as_they_are() -> None:
    assert one({"text": "  a \r\n"}).text == "  a \r\n"


def test_dates_are_named_with_what_to_do() -> None:
    for value in (date(2024, 1, 1), time(12)):
        error = refused({"text": value}, Text, what="text is a date, not a string")
        assert "column as text" in str(error.fix)


def test_half_a_character_is_no_text() -> None:
    refused({"text": "a\ud800"}, Text, what="half a character", where="file line 1, field text")
    assert one({"text": "😀"}, Text).text == "😀"


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (" a ", " a "), (" ", ""), (None, "")])
def test_an_optional_text_may_be_absent_or_blank(value: Any, text: str) -> None:
    assert optional_string("here", {"system": value}, "system") == text
    assert optional_string("here", {}, "system") == ""
    with pytest.raises(DataError, match="system is a number"):
        optional_string("here", {"system": 7}, "system")


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), (-2.0, -2), (0.5, None), (True, None), ("3", None), (None, None), (float("nan"), None)],
)
def test_integers(value: Any, number: int | None) -> None:
    assert parse_integer(value) == number


def test_json_inside_a_field() -> None:
    assert parse_json_field("here", '{"a": [1]}') == {"a": [1]}
    for wrong in ("{", "", 7, "[" * 100_000):
        with pytest.raises(DataError, match="not JSON"):
            parse_json_field("here", wrong)
