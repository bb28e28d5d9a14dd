"""A kind of adapter in one file, and no other change: trained, resumed, switched off, saved, loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bottega
from bottega import adapters
from bottega.adapters import CONFIG
from bottega.batch import Row
from bottega.errors import ModelError, RecipeError
from bottega.inference.language_model import load_language_model
from bottega.models.tokenizer import load_tokenizer
from bottega.sampling import Sampling
from making import page_file, write_jsonl


@pytest.fixture
def bottleneck(plug_in: Callable[..., None]) -> None:
    plug_in(adapters, "bottleneck", page_file("src/bottega/adapters/bottleneck.py"))


def make_recipe(llama: Path, tmp_path: Path, **changes: Any) -> bottega.Recipe:
    rows = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
    return bottega.Recipe.parse(
        {
            "model": {"base": str(llama), "dtype": "float32"},
            "adapter": {"kind": "bottleneck", "width": 3},
            "objective": {"kind": "sft"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
            "optim": {"steps": 16, "examples": 4, "lr": 5e-2},
            "save": {"every": 8},
            **changes,
        }
    )


def make_row(llama: Path, prompt: str, answer: str) -> Row:
    """The answer after the prompt, each of its tokens predicted."""
    tokenizer = load_tokenizer(str(llama))
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer))
    tokens = np.array(before + after)
    at = np.arange(len(before) - 1, len(tokens) - 1)
    return Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32))


@pytest.mark.usefixtures("bottleneck")
def test_a_new_kind_is_trained_and_used(llama: Path, tmp_path: Path) -> None:
    recipe = make_recipe(llama, tmp_path)
    events = list(bottega.train(recipe, out=tmp_path / "run"))
    losses = [event.loss for event in events if event.type == "stepped"]
    assert losses[-1] < losses[0] / 2
    result = tmp_path / "run" / "adapter"
    weights = load_file(result / "adapter_model.safetensors")
    assert all(".mlp.bottleneck." in name for name in weights), "the adapter and nothing else is saved"

    trained, base = load_language_model(str(tmp_path / "run")), load_language_model(str(llama))
    row = make_row(llama, "the cat ", "sat on the mat")
    (adapted,), (plain,) = trained.logp([row]), base.logp([row])
    assert adapted > plain + 1
    assert trained.scorer.adapted is not None
    with trained.scorer.adapted.disabled():
        assert trained.logp([row]) == [plain]
    greedy = Sampling(tokens=8, temperature=0)
    texts = [model.generate(["the cat "], greedy)[0][0].text for model in (trained, base)]
    assert texts[0] != texts[1], "answers are generated with it"


@pytest.mark.usefixtures("bottleneck")
def test_it_is_computed_packed_as_transformers_computes_it(llama: Path, tmp_path: Path) -> None:
    """No faster path goes round the modules it added."""
    list(bottega.train(make_recipe(llama, tmp_path), out=tmp_path / "run"))
    trained = load_language_model(str(tmp_path / "run"))
    assert trained.scorer.fit.packed
    row = make_row(llama, "the cat ", "sat on")
    (packed,) = trained.logp([row, make_row(llama, "the cat ", "was here")])[:1]
    trained.scorer.network.set_attn_implementation("eager")
    with torch.no_grad():
        logp = trained.scorer.network(input_ids=torch.tensor(row.tokens)[None]).logits[0].log_softmax(-1)  # [T, V]
    alone = sum(float(logp[at, label]) for at, label in zip(row.at, row.label, strict=True))
    assert packed == pytest.approx(alone, abs=1e-4)


@pytest.mark.usefixtures("bottleneck")
def test_resumed_is_uninterrupted(llama: Path, tmp_path: Path) -> None:
    recipe = make_recipe(llama, tmp_path)
    list(bottega.train(recipe, out=tmp_path / "run"))
    stopped = bottega.train(recipe, out=tmp_path / "cut")
    for event in stopped:
        if event.type == "saved":
            stopped.close()
            break
    list(bottega.resume(tmp_path / "cut"))
    whole, cut = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("run", "cut"))
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("bottleneck")
def test_it_is_continued(llama: Path, tmp_path: Path) -> None:
    list(bottega.train(make_recipe(llama, tmp_path), out=tmp_path / "run"))
    continued = make_recipe(
        llama,
        tmp_path,
        adapter={"kind": "bottleneck", "from": str(tmp_path / "run")},
        optim={"steps": 1, "examples": 4, "lr": 1e-9},
    )
    list(bottega.train(continued, out=tmp_path / "more"))
    before, after = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "more"))
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


@pytest.mark.usefixtures("bottleneck")
def test_what_it_cannot_do_is_said(llama: Path, tmp_path: Path) -> None:
    list(bottega.train(make_recipe(llama, tmp_path), out=tmp_path / "run"))
    chained = make_recipe(llama, tmp_path, model={"base": str(tmp_path / "run")})
    with pytest.raises(ModelError, match="cannot be merged"):
        list(bottega.train(chained, out=tmp_path / "chained"))
    config = tmp_path / "run" / "adapter" / CONFIG
    config.write_text(config.read_text().replace('"kind": "bottleneck"', '"kind": "botleneck"'), encoding="utf-8")
    with pytest.raises(ModelError, match=r"unknown kind 'botleneck'(?s:.*)bottleneck, lora"):
        load_language_model(str(tmp_path / "run"))


def test_an_unknown_kind_is_refused_with_a_suggestion(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown kind 'lorra'(?s:.*)lora"):
        make_recipe(llama, tmp_path, adapter={"kind": "lorra"})
