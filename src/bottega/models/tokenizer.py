"""Loading the tokenizer of a checkpoint."""

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

# Classes of tokenizers that are exactly what their tokenizer.json says. AutoTokenizer would replace them, beside Qwen2
# and some other models, by the model's class with its own pre-tokenizer, and so split texts otherwise than in training.
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a folder or hub id, with its chat template or a built-in plain-text one."""
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
        # Character offsets assign tokens to messages and words; only fast tokenizers report them.
        if not getattr(tokenizer, "is_fast", False):
            fix = "convert it to tokenizer.json"
            raise ModelError("the tokenizer reports no character offsets", where=name, fix=fix)
        builtin_templates.set_template(tokenizer, None)
    return tokenizer


def tokenizer_json(tokenizer: Any) -> dict[str, Any]:
    """What the tokenizer.json of a tokenizer says."""
    document: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return document


def mismatched_tokenizer_class(tokenizer: Any, config: Any) -> str | None:
    """The class as which AutoTokenizer would load this tokenizer from beside the model, if it then splits otherwise.

    None if it loads it as it is.
    """
    model_classes = TOKENIZER_MAPPING_NAMES.get(config.model_type)
    if type(tokenizer) is not PreTrainedTokenizerFast or model_classes in (None, *GENERIC_CLASSES):
        return None
    # Tried rather than predicted: which models override a generic tokenizer changes between releases.
    with TemporaryDirectory() as folder, quietly(folder, "the tokenizer"):
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    before, after = tokenizer_json(tokenizer), tokenizer_json(loaded)
    same = all(before[part] == after[part] for part in ("normalizer", "pre_tokenizer"))
    return None if same else type(loaded).__name__
