"""Tokenizers of checkpoints are loaded as they were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from bottega.errors import ModelError
from bottega.models.tokenizer import load_tokenizer, mismatched_tokenizer_class
from making import make_model, make_tokenizer


def test_a_generic_tokenizer_is_not_replaced_by_that_of_qwen2(tmp_path: Path) -> None:
    """transformers would split its texts like Qwen2's own tokenizer."""
    base = make_model(tmp_path / "base", "llama")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    before = AutoTokenizer.from_pretrained(tmp_path / "base").backend_tokenizer.pre_tokenizer
    read = load_tokenizer(str(base))
    saved = json.loads((base / "tokenizer.json").read_text())
    assert json.loads(read.backend_tokenizer.to_str())["pre_tokenizer"] == saved["pre_tokenizer"]
    assert "Split" in str(before)
    assert "Split" not in str(read.backend_tokenizer.pre_tokenizer)
    assert mismatched_tokenizer_class(read, AutoConfig.from_pretrained(base)) == "Qwen2Tokenizer"
    assert mismatched_tokenizer_class(read, AutoConfig.for_model("llama")) is None
    assert mismatched_tokenizer_class(AutoTokenizer.from_pretrained(base), AutoConfig.from_pretrained(base)) is None


def test_a_plain_template_is_added_only_if_there_is_none(llama: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    assert "the cat" in load_tokenizer(str(llama)).apply_chat_template(messages, tokenize=False)
    own = make_tokenizer(tmp_path / "own", template="{% for m in messages %}<{{ m.content }}>{% endfor %}")
    assert load_tokenizer(str(own)).apply_chat_template(messages, tokenize=False) == "<the cat>"


@pytest.mark.parametrize(
    ("make", "what", "fix"),
    [
        (lambda folder: None, "no such folder", "check model.tokenizer"),
        (lambda folder: folder.write_text(""), "a file, not a folder", "check model.tokenizer"),
        (lambda folder: folder.mkdir(), "the folder holds no tokenizer", "name their folder with model.tokenizer"),
    ],
)
def test_a_folder_without_a_tokenizer_is_refused(make: Any, what: str, fix: str, tmp_path: Path) -> None:
    make(tmp_path / "words")
    with pytest.raises(ModelError, match=what) as caught:
        load_tokenizer(str(tmp_path / "words"))
    assert caught.value.where == str(tmp_path / "words")
    assert fix in (caught.value.fix or "")


def test_a_damaged_tokenizer_is_an_error_that_names_it(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded") as caught:
        load_tokenizer(str(copied))
    assert caught.value.where == str(copied)
