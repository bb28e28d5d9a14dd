"""Explanations over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest
from studios import Studio

from making import make_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("models") / "base"))


def test_a_text_is_explained_and_its_attention_read(studio: Studio, base: str) -> None:
    found = studio.post("explain", {"model": base, "text": "the cat sat", "position": 1})
    model = found["document"]["model"]
    assert model["here"]["places"] == [1]
    tokens, heads = len(model["stacks"][0]["tokens"]), model["stacks"][0]["layers"][0]["heads"]
    answer = studio.http.get(f"/studio/api/explain/{found['id']}/0/1")
    assert answer.headers["x-shape"] == f"{heads},{tokens},{tokens}"
    assert len(answer.content) == heads * tokens * tokens
    more = studio.post(
        "explain", {"model": base, "text": "the cat sat", "written": [model["here"]["next"]["tokens"][0]["id"]]}
    )
    assert len(more["document"]["model"]["stacks"][0]["tokens"]) == tokens + 1
    named = {token["id"] for token in model["here"]["next"]["tokens"]}
    logit = model["here"]["next"]["rest"][0][0] if model["here"]["next"]["rest"] else None
    if logit is not None:
        assert studio.get(f"explain/{found['id']}/token?logit={logit}&position=1")["id"] not in named
    page = studio.http.post("/studio/api/explain/page", json={"model": base, "text": "the cat", "beside": base})
    assert page.text.startswith("<!doctype html>")


def test_what_cannot_be_explained_is_said(studio: Studio, base: str, tmp_path: Path) -> None:
    assert studio.refusal("POST", "explain", {"model": base, "text": " "})["message"] == "there is no text"
    assert studio.refusal("POST", "explain", {"model": str(tmp_path / "no"), "text": "a"})["code"] == "ModelError"
    written = {"model": base, "text": "the cat", "written": [50_000]}
    assert "no token" in studio.refusal("POST", "explain", written)["message"]
    assert studio.refusal("GET", "explain/0123/0/0")["message"] == "this explanation is gone"
    found = studio.post("explain", {"model": base, "text": "the cat"})
    assert studio.refusal("GET", f"explain/{found['id']}/0/99")["message"] == "no such layer"
