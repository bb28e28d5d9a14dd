"""Width, depth and vocabulary size from a model's config; names differ between models, and some state them per part."""

from __future__ import annotations

from typing import Any

from bottega.models.small_copy import config_value, nested_configs


def hidden_width(config: Any) -> int:
    """Width of the hidden states; of several parts, that of the widest."""
    return _largest_value(config, ("hidden_size", "d_latents"), 4096)


def layer_count(config: Any) -> int:
    """Number of layers; of several parts, that of the deepest."""
    return _largest_value(config, ("num_hidden_layers", "num_self_attends_per_block"), 1)


def vocabulary_size(config: Any) -> int:
    """Number of token embeddings; 0 if there is no table of them (Canine)."""
    return _largest_value(config, ("vocab_size",), 0)


def _largest_value(config: Any, names: tuple[str, ...], unknown: int) -> int:
    """The number that the config of the text says under one of these names, else the largest that a part says."""
    text, *nested = nested_configs(config.get_text_config())
    for found in (
        [config_value(text, name) for name in names],
        [config_value(one, name) for one in nested for name in names],
    ):
        numbers = [number for number in found if isinstance(number, int)]
        if numbers:
            return max(numbers)
    return unknown
