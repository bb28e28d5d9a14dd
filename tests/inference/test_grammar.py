"""Constrained answers: JSON of the schema, whatever the model would rather write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_scheduler import Caller

from bottega.errors import DataError
from bottega.inference.compute_thread import ComputeThread
from bottega.inference.continuous_decoder import ContinuousDecoder
from bottega.inference.grammar import GrammarCompiler
from bottega.inference.language_model import LanguageModel, load_language_model
from bottega.inference.scheduler import GenerationRequest, Scheduler
from bottega.sampling import Sampling
from making import make_model

PARCEL = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "count": {"type": "integer", "minimum": 3, "maximum": 40},
        "state": {"enum": ["sent", "lost"]},
    },
    "required": ["city", "count", "state"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(make_model(tmp_path_factory.mktemp("llama")), dtype="float32")


def compiler_of(model: LanguageModel) -> GrammarCompiler:
    return GrammarCompiler(model.writer.tokenizer, model.model.config.vocab_size, model.writer.ends)


def answers(model: LanguageModel, schema: dict[str, Any] | None, tokens: int, count: int) -> list[tuple[str, str]]:
    """(text, reason) of answers to one prompt, at a high temperature."""
    thread, caller = ComputeThread(), Caller()
    scheduler = Scheduler(ContinuousDecoder(model.writer.network), thread)
    settings = Sampling(tokens=tokens, temperature=2.0)
    grammar = compiler_of(model).compile(schema)
    scheduler.submit(GenerationRequest(model.writer, (7, 8), settings, count, grammar=grammar), caller)
    found = [(written.text, written.reason) for written in caller.wait()]
    scheduler.close()
    thread.close()
    return found


def test_answers_are_json_of_the_schema(model: LanguageModel) -> None:
    for text, reason in answers(model, PARCEL, 300, 8):
        assert reason == "end"
        parcel = json.loads(text)
        assert set(parcel) == {"city", "count", "state"}
        assert len(parcel["city"]) <= 6
        assert 3 <= parcel["count"] <= 40
        assert parcel["state"] in ("sent", "lost")


def test_an_object_may_hold_anything(model: LanguageModel) -> None:
    found = answers(model, None, 600, 6)
    ended = [text for text, reason in found if reason == "end"]
    assert ended
    # A model that would rather write nothing cannot go on with white space.
    assert not any("\n\n" in text or "   " in text.replace("\n", "") for text, _ in found)
    assert all(isinstance(json.loads(text), dict) for text in ended)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "no such type"}, "no such type"),
        ({"description": "x" * 70_000}, "bytes"),
    ],
)
def test_what_cannot_be_enforced_is_refused(model: LanguageModel, schema: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        compiler_of(model).compile(schema)


def test_a_tokenizer_without_a_text_is_refused(tmp_path: Path, model: LanguageModel) -> None:
    class Broken:
        class backend_tokenizer:  # noqa: N801
            @staticmethod
            def to_str() -> str:
                return "{}"

    with pytest.raises(DataError, match="cannot be constrained"):
        GrammarCompiler(Broken(), 300, frozenset([2]))
