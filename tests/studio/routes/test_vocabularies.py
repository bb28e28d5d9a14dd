"""Tokenizers and embeddings over HTTP."""

from __future__ import annotations

import pytest
from studios import Studio

from making import make_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("models") / "base"))


def test_a_text_is_encoded_and_the_vocabulary_searched(studio: Studio, base: str) -> None:
    found = studio.post("tokenizers/encode", {"model": base, "text": "the cat"})
    assert "".join(token["text"] for token in found["tokens"]) == "the cat"
    assert found["characters_per_token"] == 7 / len(found["tokens"])
    hits = studio.post("tokenizers/search", {"model": base, "text": "at"})
    assert hits["count"] >= len(hits["tokens"])
    assert all("at" in token["text"].lower() for token in hits["tokens"])


def test_a_tokenizer_is_trained(studio: Studio) -> None:
    data = studio.upload("texts.jsonl", b'{"text": "the cat sat on the mat"}\n' * 50)["result"]["name"]
    body = {"name": "own", "data": [data], "size": 300}
    task = studio.wait(studio.post("tokenizers/train", body)["task"])
    assert task["status"] == "done", task
    found = studio.post("tokenizers/encode", {"model": task["result"]["folder"], "text": "the cat"})
    assert "".join(token["text"] for token in found["tokens"]) == "the cat"
    assert studio.refusal("POST", "tokenizers/train", body)["fix"] == "choose another name"


def test_a_name_of_a_tokenizer_is_no_path(studio: Studio) -> None:
    for name in ("../own", "a/b", ".", "", "a" * 61):
        refused = studio.refusal("POST", "tokenizers/train", {"name": name, "data": ["any"], "size": 300})
        assert refused["message"] == "not a name for a tokenizer"


def test_words_have_neighbours_axes_and_analogies(studio: Studio, base: str) -> None:
    near = studio.post("embeddings/words", {"model": base, "words": ["cat"]})
    assert near["kind"] == "neighbours"
    values = [token["value"] for token in near["nearest"]]
    assert values == sorted(values, reverse=True)
    assert "cat" not in [token["text"].strip() for token in near["nearest"]]
    assert studio.post("embeddings/words", {"model": base, "words": ["cat", "dog"]})["kind"] == "axis"
    assert studio.post("embeddings/words", {"model": base, "words": ["cat", "dog", "tree"]})["kind"] == "analogy"


def test_the_map_and_the_drift(studio: Studio, base: str) -> None:
    found = studio.post("embeddings/project", {"model": base})
    assert len(found["tokens"]) == len(found["places"])
    assert found["variance"] == sorted(found["variance"], reverse=True)
    assert studio.post("embeddings/drift", {"model": base, "other": base})["same"]
