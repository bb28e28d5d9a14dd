"""Exports: what ships computes what was trained, a new format is one file, and a failed export leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bottega

LABELLED = [{"text": f"the {word} sat", "label": label} for word, label in [("cat", "a"), ("dog", "b")] * 4]


@pytest.mark.parametrize("adapter", [None, {"rank": 2}], ids=["full", "lora"])
def test_an_export_computes_what_was_trained(
    train: Callable[..., Path], adapter: dict[str, int] | None, llama: Path, tmp_path: Path
) -> None:
    run = train(llama, tmp_path / "run", adapter=adapter)
    result = bottega.export(run, tmp_path / "shipped")
    assert result.proof.difference < 1e-4
    assert result.proof.agreement == 1
    assert result.proof.rows == 4
    shipped = AutoModelForCausalLM.from_pretrained(tmp_path / "shipped", dtype=torch.float32)
    assert not any("lora" in name for name, _ in shipped.named_parameters())
    settings = bottega.Sampling(tokens=8, temperature=0)
    texts = [bottega.load(path).generate(["the cat "], settings)[0][0].text for path in (run, tmp_path / "shipped")]
    assert texts[0] == texts[1]
    base = bottega.load(llama).generate(["the cat "], settings)[0][0].text
    assert texts[0] != base, "the training changed something"


def test_a_classifier_ships_with_its_head(train: Callable[..., Path], bert: Path, tmp_path: Path) -> None:
    run = train(bert, tmp_path / "run", LABELLED, objective={"kind": "classify"}, adapter={"rank": 2})
    bottega.export(run, tmp_path / "shipped")
    shipped = AutoModelForSequenceClassification.from_pretrained(tmp_path / "shipped")
    assert shipped.config.id2label == {0: "a", 1: "b"}
    texts = ["the cat sat", "the dog sat"]
    trained, opened = (bottega.load(name).classify(texts) for name in (run, tmp_path / "shipped"))
    assert [each.label for each in trained] == [each.label for each in opened]


def test_half_precision_is_rounded_once(train: Callable[..., Path], llama: Path, tmp_path: Path) -> None:
    run = train(llama, tmp_path / "run", adapter={"rank": 2})
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        result = bottega.export(run, tmp_path / precision, precision=precision)
        assert 0 < result.proof.difference < 0.5
        assert result.proof.kl < 1e-3
        shipped = AutoModelForCausalLM.from_pretrained(tmp_path / precision)
        assert {weight.dtype for weight in shipped.parameters()} == {dtype}
