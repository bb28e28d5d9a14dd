"""What is saved is what was trained: it says where it stops, how it is padded, and what its ends are made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from making import make_model, make_tokenizer

PAIRS = [{"prompt": "the cat", "chosen": f" sat on the {n} mat and ran", "rejected": " no"} for n in ("red", "two")]
LABELLED = [{"text": "the cat sat", "label": "a"}, {"text": "it ran", "label": "b"}]

# A template that closes turns with a token that is not the end of text.
TURNS = "{% for m in messages %}{{ '<mask>' + m.role + '\n' + m.content + '<unk>\n' }}{% endfor %}"


@pytest.mark.parametrize("adapter", [None, {"rank": 2}], ids=["full", "lora"])
def test_every_end_of_turn_token_is_saved(trained: Callable[..., Any], adapter: Any, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", template=TURNS)
    trained(base, tmp_path / "run", objective={"kind": "sft"}, adapter=adapter)
    result = tmp_path / "run" / ("model" if adapter is None else "adapter")
    tokenizer = AutoTokenizer.from_pretrained(result)
    assert GenerationConfig.from_pretrained(result).eos_token_id == [tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert tokenizer.chat_template == TURNS


def test_tokens_that_the_base_stops_at_are_kept(trained: Callable[..., Any], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", template=TURNS)
    GenerationConfig(eos_token_id=[7, 1], do_sample=True, temperature=0.6).save_pretrained(base)
    trained(base, tmp_path / "run", objective={"kind": "sft"})
    saved = GenerationConfig.from_pretrained(tmp_path / "run" / "model")
    assert (saved.eos_token_id, saved.do_sample, saved.temperature) == ([7, 1, 3], True, 0.6)


@pytest.mark.parametrize(
    "odd", [{"temperature": 0.6, "do_sample": False}, {"top_p": 0.9}, {"length_penalty": 2.0, "early_stopping": True}]
)
def test_a_generation_config_that_cannot_be_saved_does_not_lose_the_result(
    trained: Callable[..., Any], odd: dict[str, Any], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(odd | {"bos_token_id": 0}))
    trained(base, tmp_path / "run", save={"every": 2})
    saved = GenerationConfig.from_pretrained(tmp_path / "run" / "model")
    assert (saved.bos_token_id, saved.eos_token_id, saved.temperature, saved.top_p) == (0, 1, None, None)


@pytest.mark.parametrize("kind", ["reward", "classify"])
def test_a_classifier_pads_as_its_config_says(trained: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(base)
    rows = PAIRS if kind == "reward" else LABELLED
    trained(base, tmp_path / "run", rows, objective={"kind": kind})
    result = tmp_path / "run" / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(result), AutoTokenizer.from_pretrained(result)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 3
    texts = ["the cat", "the cat sat on the red mat and ran"]
    with torch.no_grad():
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        padded = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_dtype_of_the_config_is_that_of_the_weights(
    trained: Callable[..., Any], dtype: str, stored: str, tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base")
    weights = {key: value.to(getattr(torch, stored)) for key, value in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    trained(base, tmp_path / "run", model={"base": str(base), "dtype": dtype}, optim={"steps": 1, "lr": 1e-4})
    result = tmp_path / "run" / "model"
    assert {value.dtype for value in load_file(result / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((result / "config.json").read_text())["dtype"] == dtype


def test_a_tokenizer_reloads_with_equal_ids(trained: Callable[..., Any], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    shutil.rmtree(tmp_path / "plain", ignore_errors=True)
    plain = make_tokenizer(tmp_path / "plain", bos=False)
    trained(base, tmp_path / "run", model={"base": str(base), "tokenizer": str(plain), "dtype": "float32"})
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    text = "the cat sat on the mat"
    assert saved(text)["input_ids"] == AutoTokenizer.from_pretrained(plain)(text)["input_ids"]
    assert saved(text)["input_ids"] != AutoTokenizer.from_pretrained(base)(text)["input_ids"]
