"""The generation config of a saved model: valid, and with every token at which it learned to stop."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

# Settings that have no effect without sampling; transformers refuses to save them with do_sample off.
SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

# What is kept of a config that stays invalid.
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def make_saveable(model: Any) -> None:
    """Remove from a model's generation config what transformers would refuse to save."""
    # It would refuse in the middle of `save_pretrained`, with half of the files written.
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    if not config.do_sample:
        for name in SAMPLING_KEYS:
            setattr(config, name, None)
    try:
        config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig(**{name: getattr(config, name, None) for name in TOKEN_KEYS})


def load_generation_config(folder: Path) -> GenerationConfig:
    """The generation config of a folder; an empty one if it has none."""
    found = (folder / "generation_config.json").exists()
    return GenerationConfig.from_pretrained(str(folder)) if found else GenerationConfig()


def end_tokens(config: GenerationConfig) -> frozenset[int]:
    """The tokens at which a model stops, by its generation config."""
    declared = config.eos_token_id
    return frozenset(declared if isinstance(declared, list) else [declared]) - {None}


def write_stop_tokens(model: Any, ends: Iterable[int], folder: Path) -> None:
    """Write the generation config into `folder`, with the tokens that end a turn added to its eos tokens."""
    config = GenerationConfig.from_dict(model.generation_config.to_dict())
    declared = config.eos_token_id
    known = declared if isinstance(declared, list) else [] if declared is None else [declared]
    tokens = list(dict.fromkeys([*known, *sorted(ends)]))
    config.eos_token_id = tokens[0] if len(tokens) == 1 else tokens or None
    config.save_pretrained(str(folder))
