"""Exports by the builder of ONNX Runtime GenAI compute what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bottega
from bottega.errors import ModelError
from bottega.exporting._source import open_trained
from bottega.exporting.genai import GenAi
from making import make_model

pytest.importorskip("onnxruntime_genai")


def test_a_decoder(same_answers: Callable[..., None], tmp_path: Path, wide: Path) -> None:
    result = bottega.export(wide, tmp_path / "genai", format="genai")
    assert result.proof is not None
    assert result.proof.difference < 1e-3
    assert result.proof.greedy == result.proof.generated > 0
    same_answers(wide, tmp_path / "genai")
    assert not list(tmp_path.glob(".*"))


def test_a_layer_as_wide_as_the_vocabulary_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", intermediate_size=300, head_dim=16)
    with pytest.raises(ModelError, match="is as wide as the vocabulary, 300"):
        bottega.export(model, tmp_path / "out", format="genai")
    assert not (tmp_path / "out").exists()


def test_narrow_heads_are_refused(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(ModelError, match="its attention has heads of 8"):
        bottega.export(llama, tmp_path / "out", format="genai")


def test_a_window_shorter_than_the_positions_is_refused(tmp_path: Path) -> None:
    for window, refused in ((16, True), (128, False)):
        model = open_trained(str(make_model(tmp_path / str(window), "mistral", head_dim=16, sliding_window=window)))
        assert ("a longer prompt fails" in GenAi().refusal(model)) == refused


def test_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its builder does not take gpt2"):
        bottega.export(make_model(tmp_path / "model", "gpt2"), tmp_path / "out", format="genai")


def test_a_text_may_outgrow_its_cache(tmp_path: Path, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottega.inference.runtimes import genai, open_runtime

    bottega.export(wide, tmp_path / "out", format="genai")
    tokens = [5 + number % 90 for number in range(40)]
    whole = open_runtime("genai", tmp_path / "out", "language").start(tokens)
    monkeypatch.setattr(genai, "CONTEXT", 8)
    runtime = open_runtime("genai", tmp_path / "out", "language")
    runtime.start(tokens[:6])
    for token in tokens[6:]:
        logits = runtime.step(token)
    np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-4)
