"""What a saved model says of how it writes: whole, and with every token at which it learned to stop."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that count only where tokens are drawn."""

TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def make_saveable(model: Any) -> None:
    """Leave out of a model's generation config what transformers would refuse to save, after half of the files."""
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


def write_stop_tokens(model: Any, ends: Iterable[int], folder: Path) -> None:
    """Name the tokens that end a turn, beside those known already, in the folder's generation config."""
    config = GenerationConfig.from_dict(model.generation_config.to_dict())
    declared = config.eos_token_id
    known = declared if isinstance(declared, list) else [] if declared is None else [declared]
    found = list(dict.fromkeys([*known, *sorted(ends)]))
    config.eos_token_id = found[0] if len(found) == 1 else found or None
    config.save_pretrained(str(folder))
