"""The application: whatever goes wrong has the envelope."""

from __future__ import annotations

import pytest
from serving import Running


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("GET", "/v1/nowhere", None, 404, "Invalid URL (GET /v1/nowhere)"),
        ("GET", "/docs", None, 404, "Invalid URL"),
        ("PUT", "/v1/models", None, 405, "Not allowed to PUT /v1/models."),
        ("POST", "/v1/chat/completions", "{", 400, "could not parse the JSON"),
        ("POST", "/v1/chat/completions", "", 400, "no body"),
        ("POST", "/v1/chat/completions", "[]", 400, "Invalid value"),
        ("POST", "/v1/chat/completions", '{"model": "base"}', 400, "'messages'"),
    ],
)
def test_every_error_has_the_envelope(
    server: Running, method: str, path: str, content: str | None, status: int, words: str
) -> None:
    with server.http() as http:
        answer = http.request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_bug_is_told_without_its_insides(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(type(server.deployment), "names", property(fail))
    with server.http() as http:
        answer = http.get("/v1/models")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    assert "ZeroDivisionError" in answer.json()["error"]["message"]
    assert "secret" not in answer.text


def test_the_document_of_the_api(server: Running) -> None:
    with server.http() as http:
        document = http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/embeddings"} <= set(document["paths"])
