"""Tokenizers of checkpoints, checked and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, get_tokenizer_config

from bottega.errors import ModelError
from bottega.models.safe_folder import check_files
from bottega.models.source import check_folder, quietly, refuse_unreachable
from bottega.tokenization import builtin_templates

GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizers that are what their tokenizer.json says. Where the model is a Qwen2 or one of some other kinds,
transformers would put that model's own pre-tokenizer in its place, and so cut texts otherwise than in training."""


def load_tokenizer(name: str) -> Any:
    """A fast tokenizer with a chat template: its own, or a plain-text one."""
    folder = Path(name)
    if folder.is_absolute():
        check_folder(folder, "model.tokenizer")
        check_files(folder)
    refuse_unreachable(name)
    if folder.is_dir() and not any(
        (folder / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.txt")
    ):
        raise ModelError(
            "the folder holds no tokenizer",
            where=name,
            fix="copy the tokenizer files next to the weights, or name their folder with model.tokenizer",
        )
    with quietly(name, "the tokenizer"):
        generic = get_tokenizer_config(name).get("tokenizer_class") in GENERIC_CLASSES
        tokenizer = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(
            name, trust_remote_code=False
        )
        if not getattr(tokenizer, "is_fast", False):
            fix = "convert it to tokenizer.json"
            raise ModelError("the tokenizer reports no character offsets", where=name, fix=fix)
        builtin_templates.set_template(tokenizer, None)
    return tokenizer


def mismatched_tokenizer_class(tokenizer: Any, config: Any) -> str | None:
    """The class by which transformers would cut texts otherwise than this tokenizer, if both are saved in one folder.

    None where it reads it as it is.
    """
    known = TOKENIZER_MAPPING_NAMES.get(config.model_type)
    if type(tokenizer) is not PreTrainedTokenizerFast or known in (None, *GENERIC_CLASSES):
        return None
    with TemporaryDirectory() as folder, quietly(folder, "the tokenizer"):
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ours, theirs = (json.loads(one.backend_tokenizer.to_str()) for one in (tokenizer, read))
    same = all(ours[part] == theirs[part] for part in ("normalizer", "pre_tokenizer"))
    return None if same else type(read).__name__
