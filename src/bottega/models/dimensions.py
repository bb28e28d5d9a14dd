"""How wide and how deep a model is, by its config: most say it by two names, some by others or of each part alone."""

from __future__ import annotations

from typing import Any

from bottega.models.small_copy import parts, said


def width(config: Any) -> int:
    """Numbers in a vector between two layers; of several parts, those of the widest."""
    return _said_by_any(config, ("hidden_size", "d_latents"), 4096)


def depth(config: Any) -> int:
    """Layers; of several parts, those of the deepest."""
    return _said_by_any(config, ("num_hidden_layers", "num_self_attends_per_block"), 1)


def vocabulary(config: Any) -> int:
    """Tokens with a vector of their own; 0 where there is no table of them."""
    return _said_by_any(config, ("vocab_size",), 0)


def _said_by_any(config: Any, names: tuple[str, ...], unknown: int) -> int:
    """The number that the config of the text says under one of these names, else the largest that a part says."""
    text, *nested = parts(config.get_text_config())
    for found in ([said(text, name) for name in names], [said(one, name) for one in nested for name in names]):
        numbers = [number for number in found if isinstance(number, int)]
        if numbers:
            return max(numbers)
    return unknown
