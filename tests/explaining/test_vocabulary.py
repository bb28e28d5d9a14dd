"""A tokenizer opened up."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.explaining.vocabulary import Vocabulary
from making import make_model


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(make_model(tmp_path_factory.mktemp("models") / "base"))


def test_tokens_make_up_the_text(vocabulary: Vocabulary) -> None:
    found = vocabulary.describe("the cat sat")
    assert "".join(token["text"] for token in found["tokens"]) == "the cat sat"
    assert (found["characters"], found["bytes"]) == (11, 11)
    assert found["characters_per_token"] == 11 / len(found["tokens"])
    assert vocabulary.describe("")["characters_per_token"] is None


def test_a_search_finds_every_token_with_a_text(vocabulary: Vocabulary) -> None:
    tokens, count = vocabulary.search("AT", 3)
    assert len(tokens) == min(3, count)
    every = [id for id in range(len(vocabulary)) if "at" in vocabulary.token(id).text.lower()]
    assert count == len(every)
    assert {token.id for token in tokens} <= set(every)


def test_special_tokens_are_marked(vocabulary: Vocabulary) -> None:
    special = vocabulary.tokenizer.eos_token_id
    assert vocabulary.token(special).special
    assert vocabulary.token(special).document()["bytes"] == vocabulary.tokenizer.eos_token.encode().hex(" ")


def test_what_cannot_be_encoded_is_said(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(bottega.DataError, match="cannot encode"):
        vocabulary.encode("\ud800")
