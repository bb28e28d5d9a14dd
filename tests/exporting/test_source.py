"""The trained model an export starts from: merged, as it was trained, and the rows to compare both on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import bottega
from bottega.errors import ModelError, RunError
from bottega.exporting._source import HARD_TEXTS, PROBE_ROWS, PROBE_TEXT, PROBE_TOKENS, open_trained
from bottega.inference.runtimes.transformers import compute_logits
from bottega.recipe.files import RESOLVED
from bottega.recipe.schema import Recipe
from making import WORDS, make_model, write_jsonl


@pytest.fixture
def adapted(llama: Path, tmp_path: Path, train: Callable[..., Path]) -> Path:
    """A run of one update that ended in an adapter, and held out half of its pairs."""
    rows = [{"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran"} for word in WORDS]
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.5}
    sections = {"objective": {"kind": "dpo"}, "adapter": {"rank": 2}, "data": data}
    return train(llama, tmp_path / "run", optim={"steps": 1, "examples": 2, "lr": 0.1}, **sections)


def test_a_run_is_merged_into_the_weights_of_its_base(adapted: Path, llama: Path) -> None:
    model = open_trained(str(adapted))
    assert (model.head, model.labels, model.source.base) == ("language", [], str(llama))
    row = np.arange(5, 15)
    module, network = model.reference()
    trained = compute_logits(network, row)
    merged = model.merged(torch.float32)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    np.testing.assert_allclose(compute_logits(merged.eval(), row), trained, rtol=0, atol=1e-4)
    base = compute_logits(AutoModelForCausalLM.from_pretrained(llama).eval(), row)
    assert np.abs(base - trained).max() > 1e-3
    assert not module.training
    assert {weight.dtype for weight in model.merged(torch.bfloat16).parameters()} == {torch.bfloat16}


def test_probes_are_the_rows_that_were_held_out(adapted: Path) -> None:
    model = open_trained(str(adapted))
    probes = model.probes()
    assert len(probes) == PROBE_ROWS
    texts = [model.tokenizer.decode(probe.tokens, skip_special_tokens=True) for probe in probes]
    assert texts[0].endswith("sat on the mat")
    assert texts[1].endswith("ran"), "both rows of a pair"
    prompt = model.tokenizer.decode(probes[0].tokens[: probes[0].prompt], skip_special_tokens=True)
    assert texts[0].startswith(prompt)
    assert "sat" not in prompt
    assert "the" in prompt


def test_a_model_without_a_run_is_compared_on_a_sentence(llama: Path) -> None:
    model = open_trained(str(llama))
    (probe,) = model.probes()
    assert PROBE_TEXT in model.tokenizer.decode(probe.tokens)
    assert (probe.prompt, probe.source) == (len(probe.tokens), None)


def test_rotations_that_depend_on_the_length_are_compared_on_a_longer_row(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = open_trained(str(make_model(tmp_path / "model", rope_parameters=rope)))
    short, longer = model.probes()
    assert len(short.tokens) < 128 < len(longer.tokens)


def test_long_rows_are_cut(llama: Path, tmp_path: Path, train: Callable[..., Path]) -> None:
    rows = [{"text": "the cat sat on the mat " * 60}] * 4
    run = train(llama, tmp_path / "run", rows, objective={"kind": "causal"}, optim={"steps": 1, "examples": 2})
    assert max(len(probe.tokens) for probe in open_trained(str(run)).probes()) == PROBE_TOKENS


def test_texts_are_the_prompts_and_what_is_often_split_otherwise(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    texts = [*(model := open_trained(str(make_model(tmp_path / "chat", template=template)))).texts(model.probes())]
    assert set(HARD_TEXTS) < set(texts)
    assert texts[-1] == "<user>Where is my parcel?<assistant>On its way.<user>Thank you!"


def test_a_run_without_a_result_is_refused(llama: Path, tmp_path: Path) -> None:
    document = {"model": {"base": str(llama)}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}
    (tmp_path / RESOLVED).write_text(json.dumps(Recipe.parse(document).document()))
    with pytest.raises(RunError, match="this run has no result yet") as caught:
        open_trained(str(tmp_path))
    assert caught.value.fix == f"finish it: bottega train --resume {tmp_path}"
    with pytest.raises(ModelError, match="no such folder"):
        open_trained(str(tmp_path / "none"))


def test_a_window_of_attention_is_exceeded(tmp_path: Path) -> None:
    model = open_trained(str(make_model(tmp_path / "model", "mistral", sliding_window=64)))
    assert [len(probe.tokens) > 64 for probe in model.probes()] == [False, True]


def test_a_run_whose_data_is_gone_is_compared_on_a_sentence(adapted: Path) -> None:
    (adapted.parent / "rows.jsonl").unlink()
    model = open_trained(str(adapted))
    (probe,) = model.probes()
    assert PROBE_TEXT in model.tokenizer.decode(probe.tokens)


def test_a_template_that_refuses_a_conversation_is_left_out(tmp_path: Path) -> None:
    model = open_trained(str(make_model(tmp_path / "model", template="{{ raise_exception('only tools') }}")))
    assert set(model.texts(model.probes())) >= set(HARD_TEXTS)


def test_end_tokens_without_a_generation_config_are_those_of_the_config(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", eos_token_id=7)
    (folder / "generation_config.json").unlink()
    assert 7 in open_trained(str(folder)).ends
    assert bottega.export(folder, tmp_path / "out").proof is not None
