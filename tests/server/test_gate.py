"""Who may ask: hosts, origins, keys, and the size of bodies."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import openai
import pytest
from serving import Running, start

import bottega
from bottega.server.gate import GateSettings
from bottega.server.keys import KeyRing

KEY = "sk-a-secret-key"


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A server without models, with a key and a small limit."""
    deployment = bottega.Deployment()
    url, end = start(
        deployment, GateSettings(KeyRing(KEY), frozenset({"models.example"}), max_body=1000, max_upload=3000)
    )
    yield url
    end()
    deployment.close()


def ask(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(f"{url}/v1/models", headers={"authorization": f"Bearer {KEY}", **headers})


def test_the_key_is_asked_for(guarded: str) -> None:
    assert ask(guarded).status_code == 200
    assert httpx2.get(f"{guarded}/v1/models", headers={"api-key": KEY}).status_code == 200
    missing, wrong = ask(guarded, authorization=""), ask(guarded, authorization="Bearer sk-another-key-99")
    assert (missing.status_code, missing.json()["error"]["code"]) == (401, None)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "another" not in wrong.text
    with (
        openai.OpenAI(base_url=f"{guarded}/v1", api_key="sk-wrong") as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.models.list()
    assert raised.value.request_id


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "["])
def test_other_host_names_are_refused(guarded: str, host: str) -> None:
    """A page whose name leads here is refused, whatever key it shows."""
    answer = ask(guarded, host=host)
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "models.example:8000", "127.0.0.1:1"])
def test_names_of_this_server_are_accepted(guarded: str, host: str) -> None:
    assert ask(guarded, host=host).status_code == 200


def test_pages_of_other_origins_are_refused(guarded: str) -> None:
    own = guarded.removeprefix("http://")
    assert ask(guarded, origin=guarded, host=own).status_code == 200
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = ask(guarded, origin=origin)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_origin")
    # A page that asks first gets no permission.
    asked = httpx2.options(f"{guarded}/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in asked.headers


def test_bodies_have_a_limit(guarded: str) -> None:
    """Told beforehand, and found out while it comes."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    path = f"{guarded}/v1/chat/completions"
    for body in (b"x" * 2000, iter([b"x" * 600] * 2)):
        answer = httpx2.post(path, headers=headers, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    upload = httpx2.post(path, headers={"authorization": f"Bearer {KEY}"}, files={"file": b"x" * 4000})
    assert (upload.status_code, upload.json()["error"]["code"]) == (413, "request_too_large")
    packed = httpx2.post(path, headers={**headers, "content-encoding": "gzip"}, content=b"x")
    assert (packed.status_code, packed.json()["error"]["code"]) == (415, "unsupported_encoding")


def test_the_client_for_azure(server: Running) -> None:
    """Its header, and its paths with the deployment in them."""
    with openai.AzureOpenAI(azure_endpoint=server.url, api_key="any", api_version="2024-10-21") as client:
        answer = client.chat.completions.create(
            model="org/tuned", messages=[{"role": "user", "content": "the"}], max_tokens=2
        )
        assert answer.model == "org/tuned"
        assert {model.id for model in client.models.list()} >= {"base"}
    with server.http() as http:
        found = http.post("/openai/deployments/base/completions?api-version=1", json={"prompt": "the", "max_tokens": 1})
        assert found.json()["model"] == "base"
