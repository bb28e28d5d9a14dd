"""Exports: what ships computes what was trained, a new format is one file, and a failed export leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import bottega
from making import make_model

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


def test_an_adapter_of_tied_embeddings_is_merged_into_one_end(train: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model(tmp_path / "tied", tie_word_embeddings=True)
    run = train(base, tmp_path / "run", adapter={"rank": 2, "targets": ["lm_head", "q_proj"]})
    result = bottega.export(run, tmp_path / "shipped")
    assert result.proof.difference < 1e-3


def test_a_regression_is_compared_by_its_numbers(train: Callable[..., Path], bert: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the {word}", "label": float(index)} for index, word in enumerate(("cat", "dog", "tree", "mat"))]
    run = train(bert, tmp_path / "run", rows, objective={"kind": "regress"})
    proof = bottega.export(run, tmp_path / "half", precision="bf16").proof
    assert proof.width == 1
    assert 0 < proof.difference < 0.05 * max(1, proof.largest)


def test_a_classifier_of_elsewhere_can_be_used(bert: Path, tmp_path: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2, id2label={0: "no", 1: "yes"})
    network.save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "plain")
    bottega.export(tmp_path / "plain", tmp_path / "shipped")
    assert set(bottega.load(tmp_path / "shipped").classify(["the cat"])[0].probabilities) == {"no", "yes"}


def test_the_pooling_of_an_embedder_of_elsewhere_is_kept(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "embedder"
    shutil.copytree(bert, folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    bottega.export(folder, tmp_path / "shipped")
    trained, shipped = (bottega.load(name) for name in (folder, tmp_path / "shipped"))
    assert trained.pooling == shipped.pooling == "first"


def test_an_encoder_decoder(tmp_path: Path) -> None:
    proof = bottega.export(make_model(tmp_path / "t5", "t5"), tmp_path / "shipped").proof
    assert proof.difference < 1e-3
    assert proof.greedy == proof.generated == 48
