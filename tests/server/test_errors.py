"""Errors in the envelope of the API."""

from __future__ import annotations

import pytest

import bottega
from bottega.server.errors import ApiError, from_bottega, from_validation


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (bottega.DataError("wrong", where="messages", fix="mend it"), 400, None),
        (bottega.ModelError("wrong", where="/a/path"), 400, None),
        (bottega.Overloaded("busy", where="queue", seconds=1.5), 429, "rate_limit_exceeded"),
        (bottega.OutOfMemory("full"), 503, "out_of_memory"),
        (bottega.Diverged("not finite"), 500, None),
    ],
)
def test_errors_of_the_library(error: bottega.BottegaError, status: int, code: str | None) -> None:
    found = from_bottega(error, "messages")
    assert (found.status, found.code) == (status, code)
    assert set(found.envelope["error"]) == {"message", "type", "param", "code"}
    assert error.what in found.message
    assert "/a/path" not in found.message


def test_an_overloaded_server_says_when_to_come_back() -> None:
    found = from_bottega(bottega.Overloaded("busy", where="queue", seconds=1.5))
    assert (found.headers["retry-after-ms"], found.headers["retry-after"]) == ("1500", "2")
    # What fails again in the same way is not tried again.
    assert from_bottega(bottega.OutOfMemory("full")).headers == {"x-should-retry": "false"}


def test_the_field_is_named_as_in_the_request() -> None:
    problem = {"type": "int_type", "loc": ("body", "messages", 0, "content"), "msg": "Wrong", "input": "x"}
    found = from_validation([problem])
    assert (found.param, found.code) == ("messages[0].content", "invalid_value")
    assert (
        found.message
        == "Invalid value for 'messages[0].content': expected a whole number, not 'x'; write a whole number."
    )
    # Of a union: what is wrong by each of its types.
    choice = {"type": "literal_error", "loc": ("body", "n_epochs", "literal"), "input": 0, "msg": ""}
    bound = {"type": "greater_than_equal", "loc": ("body", "n_epochs", "int"), "input": 0, "msg": "", "ctx": {"ge": 1}}
    message = from_validation([{**choice, "ctx": {"expected": "'auto'"}}, bound]).message
    assert message.endswith("0 is out of range: it must be at least 1; write a number that is at least 1.")
    elsewhere = {**bound, "loc": ("body", "temperature")}
    message = from_validation([problem | {"input": 0}, elsewhere]).message
    assert message.endswith("expected a whole number, not 0; write a whole number.")
    message = from_validation([{**choice, "input": "x", "ctx": {"expected": "'fine-tune' or 'batch'"}}]).message
    assert message.endswith("'x' is not one of its values; one of: fine-tune, batch.")
    found = from_validation([{"type": "missing", "loc": ("body", "prompt"), "msg": "Field required"}])
    assert (found.message, found.code) == ("Missing required parameter: 'prompt'.", "missing_required_parameter")
    assert from_validation([{"type": "missing", "loc": ("body",), "msg": ""}]).message == "The request has no body."


def test_an_error_in_a_stream_is_an_event() -> None:
    assert ApiError(500, "è").event().startswith(b'data: {"error": {"message": ')
