"""Attention over the interval mask, one back end a device, behind one call.

A layout is made once a batch and handed to the model as the keyword `layout`; transformers passes unknown keywords
down to the attention function, where every layer calls `layout.attend`. The back ends compute the same thing:

    DenseLayout   a [T, T] mask; the reference that the others are tested against
    BlockLayout   CPU, and what CUDA has no kernel for: nodes of like size in batched matmuls, little computed in vain
    CudaLayout    CUDA: FlashAttention by nodes, FlexAttention with a block mask, or blocks, whichever has a form for it

Extra legend: h query heads, g key/value heads, r = h/g, D head width, M nodes, L queries and S keys of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from bottega.batch import Batch, EncoderInput
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.cuda import CudaLayout
from bottega.models.attention.mask import AttentionLayout, AttentionOptions

CROSS_ATTENTION_FLAG = "attends_across"
"""Marks modules of a decoder that attend to what the encoder read."""

LAYOUT_ATTRIBUTE = "given_layout"
"""Where the attention of a layer that keeps keywords to itself finds the layout."""

CACHE_KEYWORDS = ("cache", "past_key_values")
"""What transformers calls the keys and values that a model keeps: from 5.24 on, and before."""

ATTENTION_NAME = "bottega"
"""The name under which transformers finds this attention."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    layout: AttentionLayout | None = None,
    across: AttentionLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer once the model's attention is set to `ATTENTION_NAME`.

    across  the layout of a decoder's attention to what its encoder read
    """
    layout = (
        across if getattr(module, CROSS_ATTENTION_FLAG, False) else layout or getattr(module, LAYOUT_ATTRIBUTE, None)
    )
    if layout is None:
        raise TypeError(f"{type(module).__name__} does not pass keywords down to its attention")
    if attention_mask is not None:
        raise TypeError(f"{type(module).__name__} makes a mask of its own")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    near = position_bias if position_bias is not None and position_bias.dim() == 2 else None
    return layout.attend(
        query, key, value, AttentionOptions(scaling, sliding_window, softcap, dropout, s_aux, near)
    ), None


def register_attention() -> None:
    """Make `model.set_attn_implementation(ATTENTION_NAME)` work; safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


def add_layout_hooks(model: torch.nn.Module) -> None:
    """From now on a layer that is given a layout gives it to its attention, if its own code does or not."""
    for layer in model.modules():
        for child in layer.children():
            if type(child).__name__.endswith("Attention"):
                layer.register_forward_pre_hook(_copy_layout_to_attention, with_kwargs=True)
                break


def _copy_layout_to_attention(layer: torch.nn.Module, args: Any, options: dict[str, Any]) -> None:
    for child in layer.children():
        if type(child).__name__.endswith("Attention"):
            setattr(child, LAYOUT_ATTRIBUTE, options.get("layout"))


def make_layout(batch: Batch) -> AttentionLayout:
    """The fastest back end for the device the batch is on; the batch may be padded."""
    return CudaLayout(batch) if batch.tokens.is_cuda else BlockLayout(batch)


def make_encoder_decoder_layouts(
    batch: Batch, source: EncoderInput
) -> tuple[AttentionLayout, AttentionLayout, AttentionLayout]:
    """(of the encoder, of the decoder, of the decoder's attention to the encoder); all may be padded."""
    return BlockLayout(source), BlockLayout(batch), BlockLayout(batch, source)
