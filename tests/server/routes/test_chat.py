"""Chat completions through the unmodified client, which checks every answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
import pytest
from serving import Running

import bottega

HELLO = [{"role": "user", "content": "the cat sat on"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"role": "user", "content": [{"type": "image_url"}]}
SCHEMA_FIELD = "response_format.json_schema.schema"
NOT_ENFORCED = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}
GREEDY: dict[str, Any] = {"messages": HELLO, "temperature": 0, "max_tokens": 12}


def library_answer(server: Running, name: str = "base", **settings: Any) -> str:
    model = bottega.load(server.folder / name, dtype="float32")
    text: str = model.chat(HELLO, bottega.Sampling(tokens=12, **settings)).text
    return text


def test_an_answer_is_that_of_the_library(server: Running, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="base", **GREEDY)
    (choice,) = answer.choices
    assert choice.message.content == library_answer(server)
    assert (choice.message.role, choice.index, choice.logprobs) == ("assistant", 0, None)
    assert answer.usage is not None
    assert choice.finish_reason == ("length" if answer.usage.completion_tokens == 12 else "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (answer.model, answer.object) == ("base", "chat.completion")


def test_an_adapter_is_picked_by_its_name(server: Running, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="org/tuned", **GREEDY)
    assert answer.choices[0].message.content == library_answer(server, "tuned") != library_answer(server)


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="base", **GREEDY, n=2, seed=7)
    chunks = list(
        client.chat.completions.create(
            model="base", **GREEDY, n=2, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]


def test_the_helper_of_the_client_for_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="base", messages=HELLO, stop=["a", "e", "o"], temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> list[str | None]:
        options: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "any"}
        async with openai.AsyncOpenAI(**options, _strict_response_validation=True) as client:
            answers = await asyncio.gather(*(client.chat.completions.create(model="base", **GREEDY) for _ in range(3)))
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask()) == [library_answer(server)] * 3


def test_settings_change_the_answer_as_in_the_library(server: Running, client: openai.OpenAI) -> None:
    more = {"temperature": 0.9, "top_p": 0.8, "seed": 5, "frequency_penalty": 0.5, "presence_penalty": 0.2}
    answer = client.chat.completions.create(
        model="base",
        messages=HELLO,
        max_completion_tokens=12,
        logit_bias={"20": -100},
        **more,  # type: ignore[arg-type]
    )
    assert answer.choices[0].message.content == library_answer(server, logit_bias=((20, -100.0),), **more)
    again = client.chat.completions.create(model="base", messages=HELLO, max_tokens=12, temperature=1.5)
    other = client.chat.completions.create(model="base", messages=HELLO, max_tokens=12, temperature=1.5)
    assert again.choices[0].message.content != other.choices[0].message.content  # without a seed


def test_scores_of_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="base", **GREEDY, logprobs=True, top_logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    for scored in logprobs.content:
        values = [top.logprob for top in scored.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert scored.logprob == values[0]  # the likeliest is chosen


def test_answers_of_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"state": {"enum": ["sent", "lost"]}},
        "required": ["state"],
        "additionalProperties": False,
    }
    format: Any = {"type": "json_schema", "json_schema": {"name": "parcel", "schema": schema}}
    answer = client.chat.completions.create(model="base", messages=HELLO, response_format=format, max_tokens=100)
    assert json.loads(answer.choices[0].message.content or "")["state"] in ("sent", "lost")
    assert answer.choices[0].finish_reason == "stop"


def test_calls_of_tools(server: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model calls nothing: what it writes is replaced, as it is read."""
    call = '<call>{"name": "weather", "arguments": {"city": "Siena"}}</call>'
    plain = client.chat.completions.create(model="base", **GREEDY, tools=[WEATHER])  # type: ignore[call-overload]
    assert plain.choices[0].message.tool_calls is None
    reader = type(server.deployment.language("base").call_reader(["weather"]))
    push, told = reader.push, iter([])
    monkeypatch.setattr(reader, "push", lambda self, text: push(self, next(told, "")))
    told = iter(["I look. ", call])
    answer = client.chat.completions.create(model="base", **GREEDY, tools=[WEATHER])  # type: ignore[call-overload]
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look. ")
    (called,) = choice.message.tool_calls
    assert (called.function.name, json.loads(called.function.arguments)) == ("weather", {"city": "Siena"})
    told = iter([call])
    chunks = list(client.chat.completions.create(model="base", **GREEDY, tools=[WEATHER], stream=True))  # type: ignore[call-overload]
    deltas = [part.delta for chunk in chunks for part in chunk.choices]
    assert [delta.tool_calls[0].function.name for delta in deltas if delta.tool_calls] == ["weather"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    # A call and its result in the conversation.
    made = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
    ]
    client.chat.completions.create(model="base", messages=history, max_tokens=3, tools=[WEATHER])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"model": "nope"}, 404, None, "model_not_found"),
        ({"model": "classes"}, 400, "model", "unsupported_model"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "alien", "content": "a"}]}, 400, "messages", None),
        ({"messages": [IMAGE]}, 400, "messages[0].content", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "the cat " * 400}]}, 400, "messages", None),
        ({"temperature": 3}, 400, "temperature", "invalid_value"),
        ({"n": 0}, 400, "n", "invalid_value"),
        ({"stop": ["a"] * 17}, 400, None, "invalid_value"),
        ({"logit_bias": {"x": 1}}, 400, None, "invalid_value"),
        ({"logit_bias": {"9999": 1}}, 400, "messages", None),
        ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
        ({"tool_choice": "required", "tools": [WEATHER]}, 400, "tool_choice", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, 400, "tools", None),
        ({"response_format": {"type": "json_schema"}}, 400, SCHEMA_FIELD, "missing_required_parameter"),
        ({"response_format": NOT_ENFORCED}, 400, "response_format", None),
        ({"modalities": ["audio"]}, 400, "modalities", "unsupported_parameter"),
        ({"web_search_options": {"x": 1}}, 400, "web_search_options", "unsupported_parameter"),
    ],
)
def test_what_is_wrong_is_named(
    client: openai.OpenAI, change: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(**{"model": "base", **GREEDY, **change})
    error = raised.value
    assert (error.status_code, error.code) == (status, code)
    assert param is None or error.param == param
    assert error.request_id
    assert len(error.message) > 40


def test_a_client_that_leaves_stops_its_answer(server: Running) -> None:
    """In the middle of a stream, and before a whole answer."""
    body = {"model": "base", "messages": HELLO, "logit_bias": {"2": -100}, "max_tokens": 400}
    stats = server.deployment.language("base").scheduler.stats
    with server.http() as http:
        with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
            next(answer.iter_lines())
        before = stats.generated_tokens
        answer = http.post("/v1/chat/completions", json={**body, "max_tokens": 1})
    assert answer.status_code == 200
    # It is noticed a moment later: the answer that nobody reads is not written to its end.
    ends = time.monotonic() + 10
    while stats.running and time.monotonic() < ends:
        time.sleep(0.01)
    assert stats.running == 0
    assert stats.generated_tokens - before < 350
