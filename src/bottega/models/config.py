"""Configs of models: loaded, made from a shape, and asked for what training must know."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from bottega.errors import ModelError
from bottega.models.safe_folder import check_config, check_files
from bottega.models.source import locate, quietly, refuse_unreachable
from bottega.recipe import schema as recipes

DEFAULT_MAX_LENGTH = 1024


DROPOUT_KEY = re.compile(r"dropout|pdrop$")


def load_config(model: recipes.Model, tokenizer: Any) -> Any:
    """The transformers config: of the base, or of the shape with the tokenizer's vocabulary and special tokens."""
    config = _base_or_new_config(model, tokenizer)
    if model.dropout is not None:
        _set_dropout(config.get_text_config(), model.dropout)
    return config


def _set_dropout(config: Any, share: float) -> None:
    """Set every dropout of a config; a ModelError where it has none."""
    # Some are left open (classifier_dropout), and follow another.
    named = [
        name for name, value in vars(config).items() if isinstance(value, (int, float)) and DROPOUT_KEY.search(name)
    ]
    if not named:
        raise ModelError(
            f"{config.model_type} has no dropout",
            where="model.dropout",
            fix="leave it out; optim.weight_decay, optim.neftune and adapter.dropout fit any model",
        )
    for name in named:
        setattr(config, name, share)


def _base_or_new_config(model: recipes.Model, tokenizer: Any) -> Any:
    if model.base is not None:
        return load_stored_config(locate(model.base).base)
    shape = dict(model.shape or {})
    tokens = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name not in shape
    }
    shape.setdefault("vocab_size", len(tokenizer))
    kind = str(shape.pop("model_type"))
    _refuse_unknown_shape(kind, shape)
    with quietly("model.shape", "the config"):
        return AutoConfig.for_model(kind, **shape, **tokens)


def load_stored_config(name: str) -> Any:
    """The transformers config of a folder or a hub id."""
    refuse_unreachable(name)
    check_files(Path(name))
    with quietly(name, "the config"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_config(config, name)
    return config


def _refuse_unknown_shape(kind: str, shape: dict[str, Any]) -> None:
    """transformers keeps any key; one that no model reads is a slip of the pen."""
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING, 3, cutoff=0.4) or ["llama", "qwen3", "gpt2"]
        raise ModelError(f"unknown model_type {kind}", where="model.shape", fix=f"for example {', '.join(near)}")
    default = CONFIG_MAPPING[kind]()
    for key in shape:
        if not hasattr(default, key):
            near = difflib.get_close_matches(key, vars(default), 1)
            fix = f"did you mean {near[0]}?" if near else f"see transformers' {type(default).__name__}"
            raise ModelError(f"unknown key {key}", where="model.shape", fix=fix)


def is_encoder(config: Any) -> bool:
    """Whether the model reads both ways, and writes nothing."""
    known = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return known and not getattr(config, "is_decoder", False) and not config.is_encoder_decoder


def decoder_start_token(config: Any) -> int | None:
    """The token before the first that a decoder behind an encoder writes; None for any other model."""
    if not config.is_encoder_decoder:
        return None
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id if config.pad_token_id is not None else config.bos_token_id
    if config.decoder_start_token_id is None:
        raise ModelError(
            "it is not said what its decoder begins with",
            where="model",
            fix="add decoder_start_token_id to its config, or to model.shape",
        )
    return int(config.decoder_start_token_id)


def position_limit(config: Any) -> int | None:
    """Most positions the model has; None when unlimited."""
    text = config.get_text_config()
    if getattr(text, "relative_attention_num_buckets", None):  # T5 writes a number of positions, and has no table
        return None
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if limit is None or limit < 1:  # XLNet says -1
        return None
    # RoBERTa's table, and that of its kin, starts after its padding index.
    offset = "roberta" in text.model_type or text.model_type in ("camembert", "mpnet", "data2vec-text")
    return int(limit) - (text.pad_token_id + 1 if offset else 0)


def resolve_max_length(wanted: int | None, config: Any) -> int:
    """`data.max_length`, or its default; a ModelError when the model has fewer positions."""
    limit = position_limit(config)
    if wanted is None:
        return min(DEFAULT_MAX_LENGTH, limit or DEFAULT_MAX_LENGTH)
    if limit is not None and wanted > limit:
        raise ModelError(
            f"max_length {wanted} is more than the model's {limit} positions",
            where="data.max_length",
            fix=f"set data.max_length to {limit} or less",
        )
    return wanted
