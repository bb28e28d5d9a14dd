"""A client of servers with OpenAI's chat completions: requests, attempts, errors, costs."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.errors import RunError
from bottega.evaluation.cost import Cost
from bottega.evaluation.openai_client import MAX_ATTEMPTS, Endpoint, Reply, _parse_reply, _suggest_fix, mean_cost
from bottega.records import Message


@pytest.mark.parametrize("spec", ["localhost:1/v1#small", "http://localhost:1/v1", "http://localhost:1/v1#", "#small"])
def test_an_endpoint_needs_an_address_and_a_model(spec: str) -> None:
    with pytest.raises(RunError, match="missing address or #model"):
        Endpoint.parse(spec)
    endpoint = Endpoint.parse("https://host/v1/#org/small")
    assert (endpoint.address, endpoint.model) == ("https://host/v1", "org/small")


def test_a_request_holds_the_conversation_and_asks_for_the_likeliest_answer(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prompts = ["the cat", (Message("user", "the dog"), Message("assistant", "yes"), Message("user", "which?"))]
    replies = Endpoint.parse(f"{server.url}#small").ask(prompts, tokens=7, system="be brief")
    assert [(reply.text, reply.read, reply.written) for reply in replies if reply] == [("Red", 9, 2), ("blue", 9, 2)]
    first, second = sorted(server.requests, key=lambda body: len(body["messages"]))
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("small", 7, 0)
    assert (first["path"], first["key"]) == ("/v1/chat/completions", None)
    system = {"role": "system", "content": "be brief"}
    assert first["messages"] == [system, {"role": "user", "content": "the cat"}]
    assert [turn["role"] for turn in second["messages"]] == ["system", "user", "assistant", "user"]


def test_a_busy_server_is_asked_again_and_given_up_in_the_end(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    endpoint = Endpoint.parse(f"{server.url}#small")
    server.busy = MAX_ATTEMPTS - 1
    (reply,) = endpoint.ask(["?"], tokens=1)
    assert reply is not None
    assert [body["key"] for body in server.requests] == ["Bearer secret"] * MAX_ATTEMPTS
    server.busy = 100
    assert endpoint.ask(["?"], tokens=1) == [None]


def test_a_server_that_refuses_or_is_absent_is_named(server: Any) -> None:
    with pytest.raises(RunError, match="404: no such model"):
        Endpoint.parse(f"{server.url}#unknown").ask(["?"], tokens=1)
    with pytest.raises(RunError, match="no server answers"):
        Endpoint.parse("http://127.0.0.1:9/v1#small").ask(["?"], tokens=1)
    assert "OPENAI_API_KEY" in _suggest_fix(401)
    assert "OPENAI_API_KEY" not in _suggest_fix(404)


@pytest.mark.parametrize("response", [None, [], {}, {"choices": []}, {"choices": [{"message": None}]}])
def test_a_response_without_an_answer_is_none(response: Any) -> None:
    assert _parse_reply(response, 1.0) is None


def test_counts_that_a_server_does_not_send_are_zero() -> None:
    assert _parse_reply({"choices": [{"message": {"content": None}}]}, 1.5) == Reply("", 0, 0, 1.5)


def test_the_mean_cost_is_that_of_the_known_replies() -> None:
    assert mean_cost([Reply("a", 10, 2, 0.5), None, Reply("b", 20, 4, 1.5)]) == Cost(2, 15.0, 3.0, 1.0)
    assert mean_cost([None]) is None
