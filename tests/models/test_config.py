"""Configs: loaded or built from a recipe's shape, and what training reads from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from bottega.errors import ModelError
from bottega.models.config import (
    DEFAULT_MAX_LENGTH,
    decoder_start_token,
    is_encoder,
    load_config,
    load_stored_config,
    position_limit,
    resolve_max_length,
)
from bottega.recipe.schema import Model
from making import make_model, tiny_config


def test_dropout_is_set_wherever_a_model_has_one(llama: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "gpt2")
    config = load_config(Model(base=str(base), dropout=0.25), None)
    assert {config.attn_pdrop, config.embd_pdrop, config.resid_pdrop} == {0.25}
    assert config.summary_first_dropout == 0.25
    shape = {"model_type": "llama", "hidden_size": 32, "vocab_size": 300}
    tokenizer = AutoTokenizer.from_pretrained(str(llama))
    assert load_config(Model(shape=shape, tokenizer=str(llama), dropout=0.3), tokenizer).attention_dropout == 0.3
    with pytest.raises(ModelError, match="mamba has no dropout") as caught:
        load_config(Model(base=str(make_model(tmp_path / "mamba", "mamba")), dropout=0.1), None)
    assert caught.value.where == "model.dropout"


def test_a_dropout_that_follows_another_one_stays_unset(bert: Path) -> None:
    config = load_config(Model(base=str(bert), dropout=0.2), None)
    assert config.classifier_dropout is None
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.2


def test_a_shape_takes_vocabulary_and_special_tokens_from_the_tokenizer(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(llama))
    shape = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2, "eos_token_id": 7}
    config = load_config(Model(shape=shape, tokenizer=str(llama)), tokenizer)
    assert (config.vocab_size, config.hidden_size) == (len(tokenizer), 16)
    assert (config.bos_token_id, config.pad_token_id) == (tokenizer.bos_token_id, tokenizer.pad_token_id)
    assert config.eos_token_id == 7, "what the shape says counts"
    assert shape["model_type"] == "llama", "the recipe is not changed"


@pytest.mark.parametrize(
    ("shape", "what", "fix"),
    [
        ({"model_type": "lama"}, "unknown model_type lama", "llama"),
        ({"model_type": "llama", "hiden_size": 4}, "unknown key hiden_size", "did you mean hidden_size?"),
        ({"model_type": "llama", "zzzzz": 4}, "unknown key zzzzz", "see transformers' LlamaConfig"),
    ],
)
def test_a_misspelt_shape_is_refused(shape: dict[str, Any], what: str, fix: str, llama: Path) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        load_config(Model(shape=shape, tokenizer=str(llama)), AutoTokenizer.from_pretrained(str(llama)))
    assert caught.value.where == "model.shape"
    assert fix in (caught.value.fix or "")


def test_a_damaged_config_is_named_by_its_folder(copied: Path) -> None:
    assert load_stored_config(str(copied)).model_type == "llama"
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match="the config cannot be loaded") as caught:
        load_stored_config(str(copied))
    assert caught.value.where == str(copied)


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [("bert", {}, True), ("bert", {"is_decoder": True}, False), ("llama", {}, False), ("t5", {}, False)],
)
def test_encoders(kind: str, more: dict[str, Any], expected: bool) -> None:
    assert is_encoder(tiny_config(kind, **more)) is expected


def test_the_token_a_decoder_starts_with() -> None:
    assert decoder_start_token(tiny_config("llama")) is None
    assert decoder_start_token(tiny_config("t5", decoder_start_token_id=5)) == 5
    unset = tiny_config("t5")
    unset.decoder_start_token_id, unset.pad_token_id, unset.bos_token_id = None, None, 4
    assert decoder_start_token(unset) == unset.decoder_start_token_id == 4
    unset.decoder_start_token_id = unset.bos_token_id = None
    with pytest.raises(ModelError, match="no decoder_start_token_id"):
        decoder_start_token(unset)


@pytest.mark.parametrize(
    ("kind", "more", "limit"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 55}, 55),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("t5", {"n_positions": 512}, None),
        ("xlnet", {}, None),
    ],
)
def test_position_limits(kind: str, more: dict[str, Any], limit: int | None) -> None:
    assert position_limit(AutoConfig.for_model(kind, **more)) == limit


def test_rows_are_no_longer_than_the_positions() -> None:
    short = AutoConfig.for_model("llama", max_position_embeddings=77)
    long = AutoConfig.for_model("llama", max_position_embeddings=100_000)
    unlimited = AutoConfig.for_model("t5")
    assert [resolve_max_length(None, config) for config in (short, long, unlimited)] == [77, *[DEFAULT_MAX_LENGTH] * 2]
    assert resolve_max_length(77, short) == 77
    assert resolve_max_length(5000, unlimited) == 5000
    with pytest.raises(ModelError, match="max_length 78 is more than the model's 77 positions"):
        resolve_max_length(78, short)
