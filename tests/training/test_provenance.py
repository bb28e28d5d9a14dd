"""What a run stores about itself, and what it notes before its first update."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import bottega
from bottega.models.scorer import Fit
from bottega.recipe.schema import Recipe
from bottega.training import provenance
from bottega.training.input_files import list_input_files
from bottega.training.setup import build
from making import WORDS, make_model, write_jsonl


def test_a_tokenizer_that_loads_as_another_class_is_noted(llama: Path, tmp_path: Path) -> None:
    shape = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    recipe = bottega.Recipe.parse(
        {
            "model": {"shape": shape, "tokenizer": str(llama)},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", [{"text": "the cat sat"}] * 4))},
            "objective": {"kind": "causal"},
            "optim": {"steps": 1},
        }
    )
    notes = [event.message for event in bottega.train(recipe, tmp_path / "run") if event.type == "noted"]
    assert sum("loads this tokenizer as Qwen2Tokenizer" in note for note in notes) == 1


@pytest.mark.parametrize("multiplied", [True, False])
def test_a_dtype_without_native_products_is_noted(
    multiplied: bool, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "has_native_dtype", lambda dtype, _: multiplied or dtype == torch.float32)
    monkeypatch.setattr(provenance, "compute_dtype", lambda *_: torch.float32)
    for dtype, noted in (("bfloat16", not multiplied), ("float32", False)):
        run = build(recipe(model={"base": recipe().model.base, "dtype": dtype}))
        assert [note.message for note in provenance.notes(run, 0) if note.subject == "dtype"] == (
            ["this processor has no native bfloat16 arithmetic: model.dtype=float32 may be many times faster"]
            if noted
            else []
        )


def test_a_tokenizer_that_is_not_the_bases_is_noted(recipe: Callable, tmp_path: Path) -> None:
    base = recipe().model.base
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(str(tmp_path / "same"))
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(str(tmp_path / "template"))
    tokenizer.add_tokens(["<new>"])
    tokenizer.chat_template = None
    tokenizer.save_pretrained(str(tmp_path / "vocabulary"))
    for name, words in (("same", []), ("template", ["chat template"]), ("vocabulary", ["vocabulary"])):
        run = build(recipe(model={"base": base, "tokenizer": str(tmp_path / name)}))
        notes = [note.message for note in provenance.notes(run, 0) if note.subject == "tokenizer"]
        assert len(notes) == len(words)
        assert all(word in note for word, note in zip(words, notes, strict=True))


def test_the_place_of_a_run_holds_what_a_resume_needs(recipe: Callable[..., Recipe]) -> None:
    run = build(recipe())
    sums = provenance.checksums(run.recipe)
    assert set(sums) == set(map(str, list_input_files(run.recipe)))
    document = json.loads(json.dumps(provenance.place_document(run, sums, 0.123)))
    assert document["files"] == sums
    assert document["versions"]["torch"] == torch.__version__
    assert "bitsandbytes" not in document["versions"]
    assert document["hardware"]["cores_of_others"] == 0.12
    choices = document["choices"]
    assert (choices["device"], choices["dtype"], choices["steps"], choices["labels"]) == ("cpu", "float32", 6, [])
    assert Fit(**choices["fit"]).packed
    assert choices["max_length"] == run.data.codec.max_length
    assert provenance.place_document(run, {}, None)["hardware"]["cores_of_others"] is None


def test_the_first_event_counts_weights_and_rows(recipe: Callable[..., Recipe]) -> None:
    full, adapted = build(recipe()), build(recipe(adapter={"rank": 2}))
    first, second = (provenance.started_event(run, 3, resumed=True) for run in (full, adapted))
    assert (first.step, first.resumed, first.steps) == (3, True, 6)
    assert (first.examples, first.validation_examples) == (18, 6)
    assert first.parameters == first.trained_parameters == sum(w.numel() for w in full.engine.scorer.parameters())
    assert second.parameters == first.parameters + second.trained_parameters
    assert second.trained_parameters < first.parameters / 4


def test_rows_that_are_lost_and_layers_without_adapter_are_noted(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "lost.jsonl", [{"prompt": "the cat", "completion": word} for word in (*WORDS, "")])
    sections = {"data": {"train": str(rows), "bad_rows": "drop"}, "adapter": {"rank": 2, "dropout": 0.1}}
    notes = {note.subject: note for note in provenance.notes(build(recipe(**sections)), 5)}
    assert notes["dropped"].message == "1 training rows left out"
    assert sum(notes["dropped"].details.values()) == 1
    assert notes["format"].message.startswith("lost.jsonl: ")
    assert "adapter dropout makes a shared prefix drop the same units" in notes["dropout"].message
    assert {note.step for note in notes.values()} == {5}


def test_a_model_that_is_not_packed_and_a_new_head_are_noted(
    recipe: Callable[..., Recipe], bert: Path, tmp_path: Path
) -> None:
    bloom = {"base": str(make_model(tmp_path / "bloom", "bloom")), "dtype": "float32"}
    notes = {note.subject: note.message for note in provenance.notes(build(recipe(model=bloom)), 0)}
    assert notes["packing"].startswith("the model runs one row per forward pass, exact but slower: ")
    body = tmp_path / "body"
    AutoModelForMaskedLM.from_pretrained(bert).base_model.save_pretrained(body)
    AutoTokenizer.from_pretrained(bert).save_pretrained(body)
    data = {"train": str(tmp_path / "rows.jsonl"), "mapping": {"text": "completion"}}
    masked = build(recipe(model={"base": str(body), "dtype": "float32"}, objective={"kind": "masked"}, data=data))
    notes = {note.subject: note.message for note in provenance.notes(masked, 0)}
    assert "no head over the vocabulary; it starts from random weights: " in notes["head"]


def test_tokenizers_are_compared_only_where_there_are_two(recipe: Callable[..., Recipe], llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_tokens(["<new>"])
    assert provenance.tokenizer_differences(recipe(), tokenizer) == []
    named = recipe(model={"base": str(llama), "tokenizer": str(llama)})
    (vocabulary, template) = provenance.tokenizer_differences(named, tokenizer)
    assert "its vocabulary differs" in vocabulary
    assert "its chat template differs" in template
