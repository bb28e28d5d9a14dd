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


def head_width(config: Any) -> int:
    """Width of an attention head of a decoder."""
    text = config.get_text_config()
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def attention_window(config: Any) -> int | None:
    """How many tokens the layers of a decoder see that do not see all; None if all see all."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    return None if window is None or (kinds and "sliding_attention" not in kinds) else int(window)


def _largest_value(config: Any, names: tuple[str, ...], unknown: int) -> int:
    """The value of the text config under one of these names, else the largest among its nested configs."""
    text, *nested = nested_configs(config.get_text_config())
    # A nested config may be larger than the text's own, so it counts only where the text config has no value.
    for values in (
        [config_value(text, name) for name in names],
        [config_value(part, name) for part in nested for name in names],
    ):
        numbers = [value for value in values if isinstance(value, int)]
        if numbers:
            return max(numbers)
    return unknown
