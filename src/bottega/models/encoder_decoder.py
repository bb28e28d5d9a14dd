"""Encoder–decoders made ready for packing: which attention looks across, and T5's positions as a table.

T5 adds to a score what it learned of the distance between two tokens, up to a largest one (Raffel et al. 2020, arXiv
1910.10683). Where many rows stand in one sequence that is no function of their places in it, so attention gets the
table instead of a matrix, and reads it by positions.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.attention import ATTENTION_NAME, CROSS_ATTENTION_FLAG

CROSS_ATTENTION_NAMES = ("EncDecAttention", "encoder_attn", "cross_attn", "crossattention")
"""What transformers calls a decoder's attention to its encoder."""


def prepare_encoder_decoder(model: nn.Module) -> None:
    """Mark and change the modules of an encoder–decoder; nothing changes under another attention than ours."""
    for name, module in model.named_modules():
        across = name.rpartition(".")[2] in CROSS_ATTENTION_NAMES
        if across:
            setattr(module, CROSS_ATTENTION_FLAG, True)
        if hasattr(module, "compute_bias") and hasattr(module, "relative_attention_max_distance"):
            changed: Any = module
            changed.compute_bias = partial(_relative_bias_table, module)
            # Else it makes a matrix of zeros, as large as all targets times all sources.
            changed.has_relative_attention_bias = changed.has_relative_attention_bias or across


def _relative_bias_table(module: Any, query_length: int, key_length: int, **options: Any) -> Tensor:
    """[2D + 1, h] under our attention, nothing where it looks across; else as the module's own."""
    known = hasattr(module, "relative_attention_bias")
    like: Tensor = module.q.weight
    if module.config._attn_implementation != ATTENTION_NAME and known:
        return cast(Tensor, type(module).compute_bias(module, query_length, key_length, **options))
    if not known:
        whole = module.config._attn_implementation != ATTENTION_NAME
        return like.new_zeros(1, module.n_heads, *((query_length, key_length) if whole else (1, 1)))
    reach = module.relative_attention_max_distance
    rule = module._relative_position_bucket
    settings = {
        "bidirectional": not module.is_decoder,
        "num_buckets": module.relative_attention_num_buckets,
        "max_distance": reach,
    }
    asked = signature(rule).parameters  # UMT5's knows them by itself
    distance = torch.arange(-reach, reach + 1, device=like.device)
    bucket = rule(distance, **{name: value for name, value in settings.items() if name in asked})
    return cast(Tensor, module.relative_attention_bias(bucket))
