"""ONNX exports of every head and family compute what was trained, and are used like a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bottega
from bottega.exporting._proof import GREEDY_TOKENS
from making import make_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LABELLED = [{"text": f"the {word} sat", "label": label} for word, label in [("cat", "a"), ("dog", "b")] * 4]
TAGGED = [{"text": "the cat sat", "entities": [{"start": 4, "end": 7, "label": "animal"}]}] * 4
PAIRS = [{"anchor": f"the {word}", "positive": f"a {word}"} for word in ("cat", "dog", "tree", "mat")]


@pytest.mark.parametrize("kind", ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt2", "t5"))])
def test_a_language_model(kind: str, same_answers: Callable[..., None], tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", kind)
    result = bottega.export(model, tmp_path / "onnx", format="onnx")
    assert result.proof is not None
    assert result.proof.difference < 1e-3
    assert result.proof.greedy == result.proof.generated == GREEDY_TOKENS
    same_answers(model, tmp_path / "onnx")


@pytest.mark.slow
def test_8_and_4_bits(tmp_path: Path, llama: Path) -> None:
    sizes = [
        bottega.export(llama, tmp_path / precision, format="onnx", precision=precision).bytes
        for precision in ("fp32", "int8", "int4")
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_a_classifier(train: Callable[..., Path], bert: Path, tmp_path: Path) -> None:
    run = train(bert, tmp_path / "run", LABELLED, objective={"kind": "classify"}, adapter={"rank": 2})
    bottega.export(run, tmp_path / "onnx", format="onnx")
    texts = ["the cat sat", "the dog sat on the mat"]
    trained, exported = (bottega.load(name, dtype="float32").classify(texts) for name in (run, tmp_path / "onnx"))
    for one, other in zip(trained, exported, strict=True):
        assert one.label == other.label
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-4)


@pytest.mark.slow
def test_a_tagger(train: Callable[..., Path], bert: Path, tmp_path: Path) -> None:
    run = train(
        bert, tmp_path / "run", TAGGED, objective={"kind": "tag"}, optim={"steps": 30, "examples": 4, "lr": 1e-2}
    )
    bottega.export(run, tmp_path / "onnx", format="onnx")
    texts = ["the cat sat", "a cat"]
    trained, exported = (bottega.load(name).tag(texts) for name in (run, tmp_path / "onnx"))
    assert trained == exported
    assert any(trained)


@pytest.mark.slow
def test_an_embedder(train: Callable[..., Path], bert: Path, tmp_path: Path) -> None:
    run = train(bert, tmp_path / "run", PAIRS, objective={"kind": "contrastive"})
    bottega.export(run, tmp_path / "onnx", format="onnx")
    texts = ["the cat", "a tree on the mat"]
    trained, exported = (bottega.load(name).embed(texts) for name in (run, tmp_path / "onnx"))
    np.testing.assert_allclose(trained, exported, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_masked_model(bert: Path, tmp_path: Path) -> None:
    bottega.export(bert, tmp_path / "onnx", format="onnx")
    trained, exported = (bottega.load(name).fill("the [MASK] sat") for name in (bert, tmp_path / "onnx"))
    assert [each.text for each in trained[0]] == [each.text for each in exported[0]]
