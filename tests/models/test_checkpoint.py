"""Checkpoints in, and the same logits out again with nothing but transformers and PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import bottega
from bottega.errors import ModelError
from bottega.models.checkpoint import load_model
from bottega.recipe.schema import Model
from bottega.training.needs import micro_batches
from bottega.training.setup import Run, build
from making import make_model, write_jsonl

NAMES = ("red", "blue", "happy", "sad", "two", "three")
ROWS = [{"prompt": f"the cat {name}", "completion": f" sat on the {name} mat"} for name in NAMES]
LABELLED = [{"text": f"the {name} dog ran", "label": name[0]} for name in NAMES]


def run(folder: Path, **sections: Any) -> Run:
    """A finished run in `folder`/run, and a session of its recipe."""
    data = write_jsonl(folder / "rows.jsonl", LABELLED if sections["objective"]["kind"] == "classify" else ROWS)
    document = {"data": {"train": str(data)}, "optim": {"steps": 2, "examples": 3, "lr": 1e-2}, **sections}
    recipe = bottega.Recipe.parse(document)
    for _ in bottega.train(recipe, folder / "run"):
        pass
    return build(recipe)


def logp_of_all_but_first(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mixtral", "bloom"])
def test_a_trained_model_loads_with_plain_from_pretrained(kind: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", kind)
    session = run(tmp_path, model={"base": str(base), "dtype": "float32"}, objective={"kind": "sft"})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.chat_template == session.data.tokenizer.chat_template
    trained = session.engine
    trained.scorer.model.load_state_dict(plain.state_dict())
    (batch,) = micro_batches(session, session.sampler.examples[:1])
    row = session.sampler.examples[0].rows[0]
    ids = torch.from_numpy(row.tokens)[None]
    with torch.no_grad():
        own = logp_of_all_but_first(plain(ids).logits, ids)[row.at]
    torch.testing.assert_close(trained.score(batch, frozenset({"logp"}))["logp"], own, rtol=1e-4, atol=1e-4)
    assert "bottega" not in (tmp_path / "run" / "model" / "config.json").read_text()


def test_a_trained_adapter_loads_with_plain_peft(llama: Path, tmp_path: Path) -> None:
    run(tmp_path, model={"base": str(llama), "dtype": "float32"}, adapter={"rank": 4}, objective={"kind": "sft"})
    base = AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
        after = adapted(ids).logits
    assert not torch.equal(before, after), "the adapter does nothing"
    resumed = build(bottega.Recipe.parse(json.loads((tmp_path / "run" / "resolved.json").read_text())))
    document = resumed.recipe.document()
    document["adapter"] = {"from": str(tmp_path / "run")}
    continued = build(bottega.Recipe.parse(document))
    (batch,) = micro_batches(continued, continued.sampler.examples[:1])
    row = continued.sampler.examples[0].rows[0]
    ids = torch.from_numpy(row.tokens)[None]
    with torch.no_grad():
        own = logp_of_all_but_first(adapted(ids).logits, ids)[row.at]
    torch.testing.assert_close(continued.engine.score(batch, frozenset({"logp"}))["logp"], own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("adapter", [None, {"rank": 4}], ids=["full", "lora"])
def test_a_classifier_loads_with_plain_from_pretrained(kind: str, adapter: dict | None, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", kind)
    model = {"base": str(base), "dtype": "float32"}
    run(tmp_path, model=model, adapter=adapter, objective={"kind": "classify"})
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events[-1]["type"] == "finished"
    if adapter is None:
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
        assert plain.config.id2label == dict(enumerate(sorted({row["label"] for row in LABELLED})))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=5)
        plain = PeftModel.from_pretrained(plain, tmp_path / "run" / "adapter")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter")
    with torch.no_grad():
        one = plain.eval()(**tokenizer("the red dog ran", return_tensors="pt")).logits
    assert one.shape == (1, 5)
    assert torch.isfinite(one).all()


def test_dropout_is_active_only_in_training(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "gpt2")
    document = {"model": {"base": str(base), "dtype": "float32", "dropout": 0.5}, "objective": {"kind": "sft"}}
    session = run(tmp_path, **document)
    (batch,) = micro_batches(session, session.sampler.examples[:])
    scorer = session.engine.scorer
    quiet, one, other = (scorer.train(training)(batch, frozenset({"logp"}))["logp"] for training in (False, True, True))
    assert (one - other).abs().max() > 1e-2
    assert torch.equal(quiet, scorer.eval()(batch, frozenset({"logp"}))["logp"])


def test_dpo_continuing_an_adapter_compares_with_that_adapter(llama: Path, tmp_path: Path) -> None:
    """The reference is the policy as the run starts, so the first step's margin is exactly zero."""
    rows = [{"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran"}] * 4
    run(tmp_path, model={"base": str(llama), "dtype": "float32"}, adapter={"rank": 4}, objective={"kind": "sft"})
    document = {
        "model": {"base": str(llama), "dtype": "float32"},
        "adapter": {"from": str(tmp_path / "run")},
        "data": {"train": str(write_jsonl(tmp_path / "pairs.jsonl", rows))},
        "objective": {"kind": "dpo"},
        "optim": {"steps": 3, "examples": 2, "lr": 1e-2},
    }
    stepped = [e for e in bottega.train(bottega.Recipe.parse(document), tmp_path / "dpo") if e.type == "stepped"]
    assert stepped[0].metrics["margin"] == pytest.approx(0, abs=1e-6)
    assert stepped[0].grad_norm > 0
    assert stepped[-1].metrics["margin"] > 0.01


def test_a_run_can_be_the_base_of_another(llama: Path, tmp_path: Path) -> None:
    model = {"base": str(llama), "dtype": "float32"}
    for name, adapter in (("full", None), ("lora", {"rank": 4})):
        folder = tmp_path / name
        folder.mkdir()
        run(folder, model=model, adapter=adapter, objective={"kind": "sft"})
        again = tmp_path / f"{name}-again"
        again.mkdir()
        run(again, model={"base": str(folder / "run"), "dtype": "float32"}, objective={"kind": "sft"})
        assert (again / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["clip", "emu3_text_model"])
def test_models_of_other_modalities_are_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=f"transformers has no AutoModelForCausalLM for {kind}"):
        load_model(Model(base="x"), AutoConfig.for_model(kind), "language", [], torch.float32, None)
