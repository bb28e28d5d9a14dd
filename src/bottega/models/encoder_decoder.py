"""Encoder–decoders prepared for packing: cross attention is marked, and T5's relative bias becomes a table.

T5 adds a learned bias to each score, by the distance between two tokens up to a maximum (Raffel et al. 2020, arXiv
1910.10683). In a packed sequence that distance does not follow from indices, so the attention gets a table [2D + 1, h]
instead of a matrix [T, S], and looks it up by positions.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.attention import ATTENTION_NAME, CROSS_ATTENTION_FLAG

# Attribute names of cross attention modules in transformers.
CROSS_ATTENTION_NAMES = ("EncDecAttention", "encoder_attn", "cross_attn", "crossattention")


def prepare_encoder_decoder(model: nn.Module) -> None:
    """Mark and patch the modules of an encoder–decoder; under any other attention it computes what it did."""
    for name, module in model.named_modules():
        is_cross = name.rpartition(".")[2] in CROSS_ATTENTION_NAMES
        if is_cross:
            setattr(module, CROSS_ATTENTION_FLAG, True)
        if hasattr(module, "compute_bias") and hasattr(module, "relative_attention_max_distance"):
            attention: Any = module
            attention.compute_bias = partial(_relative_bias_table, module)
            # Without a bias T5 would make a matrix of zeros, all targets times all sources; `compute_bias` makes none.
            attention.has_relative_attention_bias = attention.has_relative_attention_bias or is_cross


def _relative_bias_table(module: Any, query_length: int, key_length: int, **options: Any) -> Tensor:
    """[2D + 1, h] under packed attention, one zero per head in cross attention; else the module's own matrix."""
    has_bias = hasattr(module, "relative_attention_bias")
    like: Tensor = module.q.weight
    if module.config._attn_implementation != ATTENTION_NAME and has_bias:
        return cast(Tensor, type(module).compute_bias(module, query_length, key_length, **options))
    if not has_bias:
        is_unpacked = module.config._attn_implementation != ATTENTION_NAME
        return like.new_zeros(1, module.n_heads, *((query_length, key_length) if is_unpacked else (1, 1)))
    max_distance = module.relative_attention_max_distance  # D
    bucket_of = module._relative_position_bucket
    settings = {
        "bidirectional": not module.is_decoder,
        "num_buckets": module.relative_attention_num_buckets,
        "max_distance": max_distance,
    }
    parameters = signature(bucket_of).parameters  # UMT5's is a method, which takes the distance alone
    distance = torch.arange(-max_distance, max_distance + 1, device=like.device)  # [2D + 1]
    bucket = bucket_of(distance, **{name: value for name, value in settings.items() if name in parameters})
    return cast(Tensor, module.relative_attention_bias(bucket))
