"""Models over HTTP: one is made ready, asked through the API of the server, and let go."""

from __future__ import annotations

from pathlib import Path

from studios import Studio

from making import make_model


def test_a_model_is_opened_asked_and_closed(studio: Studio, tmp_path: Path) -> None:
    base = str(make_model(tmp_path / "base"))
    assert studio.get("models") == []
    assert studio.post("models/open", {"model": base})["limit"]
    assert [model["kind"] for model in studio.get("models")] == ["served"]
    body = {"model": base, "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 3, "logprobs": True}
    answer = studio.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["logprobs"]["content"]
    studio.post("models/close", {"model": base})
    assert studio.get("models") == []
    assert studio.refusal("POST", "models/open", {"model": str(tmp_path / "none")})["code"] == "ModelError"
