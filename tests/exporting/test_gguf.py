"""GGUF files hold what was trained: read back by transformers, and run by llama.cpp where it is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import bottega
from bottega.errors import ModelError
from making import make_model, shared_data

gguf = pytest.importorskip("gguf")

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"


def has_llama_cpp() -> bool:
    from bottega.inference.runtimes import is_installed

    return is_installed("llama_cpp")


needs_llama_cpp = pytest.mark.skipif(not has_llama_cpp(), reason="llama.cpp is not installed: make engines")


def fields(path: Path) -> dict[str, object]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "q8_0", "q4_0"])
def test_the_file_says_what_the_model_is(precision: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", template=TEMPLATE, tie_word_embeddings=True)
    result = bottega.export(model, tmp_path / "out", format="gguf", precision=precision)
    stated = fields(tmp_path / "out" / "model.gguf")
    assert stated["general.architecture"] == "llama"
    assert stated["llama.block_count"] == 2
    assert stated["llama.attention.head_count_kv"] == 2
    assert stated["tokenizer.chat_template"] == TEMPLATE
    assert stated["tokenizer.ggml.eos_token_id"] == 1
    assert len(stated["tokenizer.ggml.tokens"]) == 300
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert "output.weight" not in names, "a tied head is left out"
    assert result.precision == precision
    if not has_llama_cpp():
        assert json.loads((tmp_path / "out" / "export.json").read_text())["comparison"]["proof"] is None
        assert "llama.cpp is not installed" in result.unproved


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_reads_the_same_weights_back(kind: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", kind)
    bottega.export(model, tmp_path / "out", format="gguf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32)
    wanted = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    assert {name: weight.shape for name, weight in again.state_dict().items()} == {
        name: weight.shape for name, weight in wanted.items()
    }
    for name, weight in again.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=0)


@needs_llama_cpp
def test_a_run_in_llama_cpp_is_the_run(
    train: Callable[..., Path], same_answers: Callable[..., None], llama: Path, tmp_path: Path
) -> None:
    run = train(llama, tmp_path / "run", adapter={"rank": 2})
    result = bottega.export(run, tmp_path / "out", format="gguf")
    assert result.proof is not None
    assert result.proof.difference < 1e-3
    assert result.proof.greedy == result.proof.generated > 0
    same_answers(run, tmp_path / "out")


@needs_llama_cpp
@pytest.mark.parametrize("precision", ["fp32", "fp16", "q8_0", "q4_0", "q4_k_m"])
def test_a_real_model(precision: str, tmp_path: Path) -> None:
    """Its tokenizer is of the kind of SentencePiece."""
    model = shared_data("stories260K_hf")
    result = bottega.export(model, tmp_path / "out", format="gguf", precision=precision)
    assert result.proof is not None
    assert result.proof.texts > 2
    assert precision.startswith("q4") or result.proof.greedy == result.proof.generated


def test_models_that_it_cannot_hold(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(ModelError, match="it is written for language models only"):
        bottega.export(bert, tmp_path / "out", format="gguf")
    with pytest.raises(ModelError, match="bloom is not among llama, mistral"):
        bottega.export(make_model(tmp_path / "bloom", "bloom"), tmp_path / "out", format="gguf")
    with pytest.raises(ModelError, match="its attention sees 5 tokens"):
        bottega.export(make_model(tmp_path / "mistral", "mistral"), tmp_path / "out", format="gguf")


@needs_llama_cpp
def test_a_text_may_outgrow_its_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottega.inference.runtimes import llama_cpp

    model = make_model(tmp_path / "model", max_position_embeddings=2048)
    bottega.export(model, tmp_path / "out", format="gguf")
    monkeypatch.setattr(llama_cpp, "CONTEXT", 256)
    settings = bottega.Sampling(tokens=300, temperature=0)
    models = [bottega.load(name, dtype="float32") for name in (model, tmp_path / "out")]
    answers = [model.generate(["the cat"], settings)[0][0].tokens for model in models]
    assert answers[0][:64] == answers[1][:64]
    assert len(answers[0]) == len(answers[1])


@needs_llama_cpp
def test_tokens_at_which_llama_cpp_ends_by_itself_are_no_part_of_the_proof(tmp_path: Path) -> None:
    """It knows <|im_end|> by name, a special token; a model without end tokens is refused."""
    from bottega.inference.runtimes import open_runtime

    bottega.export(make_model(tmp_path / "model"), tmp_path / "out", format="gguf")
    assert open_runtime("llama_cpp", tmp_path / "out", "language").ends == {1}
