"""Models of another server, asked for through this one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from serving import Running, start

import bottega
from bottega.server.upstream import Upstream, is_url

HELLO: Any = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def front(server: Running) -> Iterator[str]:
    """A server without models of its own; `far` is a model of another."""
    deployment = bottega.Deployment()
    upstreams = {
        "far": Upstream.parse("far", f"{server.url}/v1#base", "a-key"),
        "vectors": Upstream.parse("vectors", f"{server.url}/v1/"),
        "gone": Upstream.parse("gone", "http://127.0.0.1:9/v1"),
    }
    url, end = start(deployment, upstreams=upstreams)
    yield url
    end()
    deployment.close()


@pytest.fixture(scope="module")
def client(front: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{front}/v1", api_key="any", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_answers_are_those_of_the_other_server(server: Running, client: openai.OpenAI) -> None:
    settings: Any = {"messages": HELLO, "temperature": 0, "max_tokens": 8}
    with server.client() as direct:
        expected = direct.chat.completions.create(model="base", **settings).choices[0].message.content
    assert client.chat.completions.create(model="far", **settings).choices[0].message.content == expected
    chunks = list(client.chat.completions.create(model="far", stream=True, **settings))
    assert len(chunks) > 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert client.completions.create(model="far", prompt="the cat", max_tokens=3).usage
    assert client.embeddings.create(model="vectors", input="the cat", encoding_format="float").data[0].embedding
    assert {model.id for model in client.models.list()} == {"far", "vectors", "gone"}


def test_errors_are_those_of_the_other_server(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="far", messages=HELLO, max_tokens=-1)
    assert raised.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="base", messages=HELLO)
    with pytest.raises(openai.InternalServerError, match="'gone' does not answer: ConnectError") as unreached:
        client.chat.completions.create(model="gone", messages=HELLO)
    assert unreached.value.status_code == 502


def test_the_other_server_is_told_when_the_client_goes(server: Running, front: str) -> None:
    served = server.deployment.language("base")
    body = {"model": "far", "messages": HELLO, "stream": True, "max_tokens": 400, "logit_bias": {"2": -100}}
    headers = {"authorization": "Bearer any"}
    with httpx2.stream("POST", f"{front}/v1/chat/completions", json=body, headers=headers) as response:
        next(response.iter_lines())
    ends = time.monotonic() + 20
    while served.scheduler.stats.running and time.monotonic() < ends:
        time.sleep(0.02)
    assert not served.scheduler.stats.running


def test_what_is_no_document_is_refused_here(front: str) -> None:
    for body in (b"{", b"[]", b'{"model": 3}', b'{"model": "far", "messages": [], "temperature": NaN}'):
        answer = httpx2.post(f"{front}/v1/chat/completions", content=body, headers={"authorization": "Bearer any"})
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["type"] == "invalid_request_error"
    # Half a character is the other server's to judge.
    half = b'{"model": "far", "messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 2}'
    answer = httpx2.post(f"{front}/v1/chat/completions", content=half, headers={"authorization": "Bearer any"})
    assert answer.status_code in (200, 400), answer.text
    assert is_url("https://models.example/v1")
    assert not is_url("runs/http")
    for source in ("http://", "http://[::1"):
        with pytest.raises(bottega.RecipeError, match="not the address of a server"):
            Upstream.parse("far", source)
