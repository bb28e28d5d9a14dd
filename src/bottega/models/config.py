"""Model configs: loading them, building them from a recipe's shape, and reading what training needs."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from torch import nn
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

# Of `data.max_length`, in tokens.
DEFAULT_MAX_LENGTH = 1024

# The shortest text that something can be learned of: a token, and the one it predicts.
MIN_LENGTH = 2

# Names of dropout probabilities; GPT-2 and its relatives say attn_pdrop, resid_pdrop.
DROPOUT_KEY = re.compile(r"dropout|pdrop$")


def load_config(model: recipes.Model, tokenizer: Any) -> Any:
    """The config of the base, or one of the recipe's shape with the tokenizer's vocabulary and special tokens."""
    config = _base_or_new_config(model, tokenizer)
    if model.dropout is not None:
        _set_dropout(config.get_text_config(), model.dropout)
    return config


def has_dropout(network: nn.Module) -> bool:
    """Whether a model drops anything in training."""
    # A config may have probabilities for parts that the model does not.
    return any(
        value and (name == "p" or DROPOUT_KEY.search(name))
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, float)
    )


def _set_dropout(config: Any, probability: float) -> None:
    """Set every dropout probability of a config; a ModelError if it has none."""
    # Those that are None (classifier_dropout) follow another one, and stay.
    names = [
        name for name, value in vars(config).items() if isinstance(value, (int, float)) and DROPOUT_KEY.search(name)
    ]
    if not names:
        raise ModelError(
            f"{config.model_type} has no dropout",
            where="model.dropout",
            fix="leave it out; optim.weight_decay, optim.neftune and adapter.dropout fit any model",
        )
    for name in names:
        setattr(config, name, probability)


def _base_or_new_config(model: recipes.Model, tokenizer: Any) -> Any:
    if model.base is not None:
        return load_stored_config(locate(model.base).base)
    shape = dict(model.shape or {})
    tokens = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name not in shape
    }
    shape.setdefault("vocab_size", len(tokenizer))
    model_type = str(shape.pop("model_type"))
    _refuse_unknown_shape(model_type, shape)
    with quietly("model.shape", "the config"):
        return AutoConfig.for_model(model_type, **shape, **tokens)


def load_stored_config(name: str) -> Any:
    """The config of a folder or a hub id; a ModelError if it refers to code."""
    refuse_unreachable(name)
    check_files(Path(name))
    with quietly(name, "the config"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_config(config, name)
    return config


def _refuse_unknown_shape(model_type: str, shape: dict[str, Any]) -> None:
    """Raise a ModelError for a model type or a key that transformers does not have."""
    # transformers configs accept any key and ignore those they do not know, so a typing error would pass.
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(model_type, CONFIG_MAPPING, 3, cutoff=0.4) or ["llama", "qwen3", "gpt2"]
        raise ModelError(f"unknown model_type {model_type}", where="model.shape", fix=f"for example {', '.join(near)}")
    default = CONFIG_MAPPING[model_type]()
    for key in shape:
        if not hasattr(default, key):
            near = difflib.get_close_matches(key, vars(default), 1)
            fix = f"did you mean {near[0]}?" if near else f"see transformers' {type(default).__name__}"
            raise ModelError(f"unknown key {key}", where="model.shape", fix=fix)


def is_encoder(config: Any) -> bool:
    """Whether the model attends in both directions and generates nothing."""
    has_masked_lm = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    # BERT with is_decoder is a causal language model.
    return has_masked_lm and not getattr(config, "is_decoder", False) and not config.is_encoder_decoder


def decoder_start_token(config: Any) -> int | None:
    """The token a decoder starts with, in an encoder–decoder; None for any other model."""
    if not config.is_encoder_decoder:
        return None
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id if config.pad_token_id is not None else config.bos_token_id
    if config.decoder_start_token_id is None:
        raise ModelError(
            "its config has no decoder_start_token_id",
            where="model",
            fix="add it to the config, or to model.shape",
        )
    return int(config.decoder_start_token_id)


def position_limit(config: Any) -> int | None:
    """The number of positions the model has; None if unlimited."""
    text = config.get_text_config()
    if getattr(text, "relative_attention_num_buckets", None):  # T5's config has n_positions, but the model no table
        return None
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if limit is None or limit < 1:  # XLNet says -1
        return None
    # The position tables of RoBERTa and its relatives start after the padding index.
    offset = "roberta" in text.model_type or text.model_type in ("camembert", "mpnet", "data2vec-text")
    return int(limit) - (text.pad_token_id + 1 if offset else 0)


def resolve_max_length(requested: int | None, config: Any, taken: int = 0) -> int:
    """`data.max_length`, or its default; a ModelError if the model has fewer positions, beside those `taken`."""
    positions = position_limit(config)
    limit = None if positions is None else positions - taken
    if limit is not None and limit < MIN_LENGTH:
        what = f"{taken} trained tokens leave no room for a text: the model has {positions} positions"
        raise ModelError(what, where="adapter.tokens", fix="take fewer tokens")
    if requested is None:
        return DEFAULT_MAX_LENGTH if limit is None else min(DEFAULT_MAX_LENGTH, limit)
    if limit is not None and requested > limit:
        raise ModelError(
            f"max_length {requested} is more than the model's {limit} positions",
            where="data.max_length",
            fix=f"set data.max_length to {limit} or less",
        )
    return requested
