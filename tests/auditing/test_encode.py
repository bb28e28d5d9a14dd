"""Rows are encoded for an audit as training would encode them."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_families import user
from parsed_rows import TOOL

import bottega
from bottega.auditing.encode import create_encoder
from bottega.recipe.schema import Recipe
from bottega.records import Choice, Labelled, Preference, Prompted, Text, Unpaired, Unusable
from making import make_model, write_jsonl


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_every_record_type_is_encoded(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = str(request.getfixturevalue(kind))
    told = [
        {"text": "the cat sat"},
        {"text": "the cat", "label": "a"},
        {"text": "the cat", "labels": ["a", "b"]},
        {"text": "the cat", "spans": [{"start": 4, "end": 7, "label": "x"}]},
        {"anchor": "the cat", "positive": "a cat"},
        {"sentence1": "the cat", "sentence2": "a cat", "score": 0.5},
    ]
    told += [] if kind == "bert" else [
        {"prompt": "the cat", "completion": " sat"},
        {"prompt": "the cat", "chosen": " sat", "rejected": " ran"},
        {"prompt": "the cat", "completion": " sat", "label": True},
        {"question": "the cat?", "choices": ["sat", "ran"], "answer": 0},
    ]  # fmt: skip
    for number, row in enumerate(told):
        path = write_jsonl(tmp_path / f"{number}.jsonl", [row])
        found = bottega.audit(path, model=model, only=["no_loss"])
        assert found.findings == [], row
        assert sum(count for _, count in found.shape["tokens"]) == 1


TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"


def test_tools_of_a_rated_answer_are_encoded(tmp_path: Path) -> None:
    template = "{{ tools | tojson if tools else '' }}" + PLAIN
    codec, rows = create_encoder(str(make_model(tmp_path / "model", "llama", template=template)), None)
    with_tools, without = (rows(Unpaired("a", (user("q"),), "a", True, tools))[0][0] for tools in ((TOOL,), ()))
    assert len(with_tools.tokens) > len(without.tokens) + 10
    assert codec.tokenizer.decode(with_tools.tokens).startswith('[{"type": "function"')


def test_long_documents_are_split_and_other_long_rows_are_dropped(llama: Path) -> None:
    codec, rows = create_encoder(str(llama), None)
    document = Text("here", "the cat sat on the mat " * 100)
    blocks = rows(document)
    assert len(blocks) > 1
    assert all(len(block[0].tokens) <= codec.max_length for block in blocks)
    with pytest.raises(Unusable, match="longer than max_length"):
        rows(Prompted("here", document.text, " sat"))


def test_rows_of_a_recipe_are_those_of_its_objective(llama: Path) -> None:
    sections = {"model": {"base": str(llama)}, "data": {"train": "a.jsonl", "max_length": 16}}
    pair = Preference("here", "the cat", " sat", " ran")
    for kind, count in (("dpo", 2), ("sft", 1)):
        recipe = Recipe.parse({**sections, "objective": {"kind": kind}})
        codec, rows = create_encoder(None, recipe)
        assert codec.max_length == 16
        assert [len(example) for example in rows(pair)] == [count]


def test_labels_of_a_classifier_are_not_needed_to_encode_its_texts(bert: Path) -> None:
    recipe = Recipe.parse(
        {"model": {"base": str(bert)}, "data": {"train": "a.jsonl"}, "objective": {"kind": "classify"}}
    )
    codec, rows = create_encoder(None, recipe)
    ((row,),) = rows(Labelled("here", "the cat", "a label that no training row has"))
    assert codec.tokenizer.decode(row.tokens, skip_special_tokens=True) == "the cat"


def test_an_encoder_decoder_reads_the_prompt_of_every_row(tmp_path: Path) -> None:
    codec, rows = create_encoder(str(make_model(tmp_path, "t5")), None)
    for record in (
        Preference("here", "the cat", " sat", " ran"),
        Unpaired("here", "the cat", " sat", True),
        Prompted("here", "the cat", " sat"),
        Choice("here", "the cat", ("sat", "ran"), 1),
    ):
        for row in rows(record)[0]:
            assert row.source is not None
            assert "the cat" in codec.tokenizer.decode(row.source)
