"""Attention over the interval mask, one back end per device, behind one call.

A layout is made once per batch and handed to the model as the keyword `layout`; transformers passes unknown keywords
down to the attention function, where every layer calls `layout.attend`. The back ends compute the same function:

    DenseLayout   a [T, T] mask; the reference that the others are tested against
    BlockLayout   CPU, and what CUDA has no kernel for: nodes of similar size in batched matmuls, with little padding
    TreeLayout    CPU, where operators in C++ may be used: node by node, and in blocks what does not fit them
    CudaLayout    CUDA: FlashAttention over nodes, FlexAttention with a block mask, or blocks: the first to support it

Extra legend: h query heads, g key/value heads, r = h/g, D head width, M nodes, L queries and S keys of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from bottega.adapters import KEYS_AND_VALUES
from bottega.batch import Batch, EncoderInput
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.cuda import CudaLayout
from bottega.models.attention.mask import AttentionLayout, AttentionOptions
from bottega.models.attention.trees import TreeLayout

# Attribute set on cross-attention modules of a decoder.
CROSS_ATTENTION_FLAG = "attends_across"

# Attribute in which an attention module finds the layout when its layer does not pass keywords on to it.
LAYOUT_ATTRIBUTE = "given_layout"

# transformers' keyword for the KV cache: the first from 5.24 on, the second before.
CACHE_KEYWORDS = ("cache", "past_key_values")

# The name under which transformers finds this attention (`attn_implementation`).
ATTENTION_NAME = "bottega"


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
    cross_layout: AttentionLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer of a model set to `ATTENTION_NAME`.

    cross_layout  the layout of a decoder's cross attention

    Raises TypeError for a module that this function would compute wrongly; `packing_proof` reads it as "not packable".
    """
    if getattr(module, CROSS_ATTENTION_FLAG, False):
        layout = cross_layout
    else:
        layout = layout or getattr(module, LAYOUT_ATTRIBUTE, None)
    if layout is None:
        raise TypeError(f"{type(module).__name__} does not pass keywords down to its attention")
    # The registered mask function makes none; a mask that arrives was built by the model's own code, and would be lost.
    if attention_mask is not None:
        raise TypeError(f"{type(module).__name__} makes a mask of its own")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Only `encoder_decoder` gives the table of relative positions [2D + 1, h]; a matrix of any other shape is ignored
    # here, which the packing proof notices.
    relative_bias = position_bias if position_bias is not None and position_bias.dim() == 2 else None
    options = AttentionOptions(scaling, sliding_window, softcap, dropout, s_aux, relative_bias)
    return attend(module, layout, query, key, value, options), None


def attend(
    module: torch.nn.Module,
    layout: AttentionLayout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: AttentionOptions,
) -> Tensor:
    """The attention of a layer, with the keys and values that its adapter has trained; see `AttentionLayout.attend`."""
    trained = module.__dict__.get(KEYS_AND_VALUES)
    if trained is not None:
        key, value = trained.replace(key, value)
    return layout.attend(query, key, value, options)


def register_attention() -> None:
    """Make `model.set_attn_implementation(ATTENTION_NAME)` work; safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


def add_layout_hooks(model: torch.nn.Module) -> None:
    """From now on hand each layer's `layout` to its attention modules, even if its own code drops keywords."""
    for layer in model.modules():
        attentions = [child for child in layer.children() if type(child).__name__.endswith("Attention")]
        if attentions:
            layer.register_forward_pre_hook(partial(_copy_layout, attentions), with_kwargs=True)


def _copy_layout(attentions: list[torch.nn.Module], layer: torch.nn.Module, args: Any, options: dict[str, Any]) -> None:
    for attention in attentions:
        # None as well, so that no layout of an earlier batch stays behind. Not by `setattr`, with which nn.Module looks
        # whether it is a parameter: this is done in every layer of every step.
        attention.__dict__[LAYOUT_ATTRIBUTE] = options.get("layout")


def make_layout(batch: Batch, *, native: bool = False) -> AttentionLayout:
    """The fastest back end for the device the batch is on, in C++ if that may be; the batch may be padded."""
    if batch.tokens.is_cuda:
        return CudaLayout(batch)
    return TreeLayout(batch) if native else BlockLayout(batch)


def make_encoder_decoder_layouts(
    batch: Batch, source: EncoderInput, *, native: bool = False
) -> tuple[AttentionLayout, AttentionLayout, AttentionLayout]:
    """Layouts of (the encoder, the decoder's self attention, its cross attention); both inputs may be padded."""
    layout = TreeLayout if native and not batch.tokens.is_cuda else BlockLayout
    return layout(source), layout(batch), BlockLayout(batch, source)
