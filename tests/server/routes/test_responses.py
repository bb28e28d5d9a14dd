"""The API of responses, in its smallest form."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from serving import Running

import bottega

ASKED: dict[str, Any] = {"model": "base", "temperature": 0, "max_output_tokens": 9}


def test_an_answer_is_that_of_the_library(server: Running, client: openai.OpenAI) -> None:
    turns = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "the cat"}]
    expected = bottega.load(server.folder / "base", dtype="float32").chat(turns, bottega.Sampling(tokens=9))
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "the cat"}]}]
    for given in ("the cat", parts):
        answer = client.responses.create(**ASKED, input=given, instructions="Be brief", metadata={"a": "b"})  # type: ignore[call-overload]
        assert answer.output_text == expected.text
        assert answer.status == ("incomplete" if expected.reason == "length" else "completed")
        assert answer.usage.output_tokens == len(expected.tokens)
        assert answer.metadata == {"a": "b"}


def test_a_stream_tells_what_happens(client: openai.OpenAI) -> None:
    whole = client.responses.create(**ASKED, input="the cat")
    events: list[Any] = list(client.responses.create(**ASKED, input="the cat", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    # The client's helper knows no answer that is cut off; stop strings are an addition of ours.
    more: Any = {"extra_body": {"stop": ["a", "e", "o", " "]}}
    with client.responses.stream(**{**ASKED, "max_output_tokens": 200}, input="the cat", **more) as stream:
        assert stream.get_final_response().status == "completed"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(**{**ASKED, "input": "the", **change})
    assert raised.value.param == param
