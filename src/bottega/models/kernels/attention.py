"""Attention layers with q, k, v and o projections and RoPE: everything around the attention itself.

The three input projections are one autograd function, since their gradients to the input are one sum. A rotation (Su et
al. 2021, arXiv 2104.09864) is three passes forward and back, and keeps nothing but its angles. The options of the
attention are read from the module's attributes, under the names transformers gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bottega.batch import Example, Row
from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.attention import CACHE_KEYWORDS, attend
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.mask import AttentionOptions
from bottega.models.kernels.lora_linear import apply_linears, linear_tensors
from bottega.packing import pack

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
# Of layers that normalize queries and keys per head, as Qwen3 does.
HEAD_NORMS = ("q_norm", "k_norm")
REQUIRED_ATTRIBUTES = ("head_dim", "scaling", "attention_dropout")


def matches(module: nn.Module) -> bool:
    """Whether this has the projections and attributes of such a layer."""
    is_like = all(hasattr(module, name) for name in (*PROJECTIONS, *REQUIRED_ATTRIBUTES, "config"))
    # OLMo can clip q, k and v: the random inputs of the proof would rarely reach the limit, so it is refused here.
    return is_like and getattr(cast(Any, module).config, "clip_qkv", None) is None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """The hidden states of one row, with random rotary angles and a layout."""
    x = torch.randn(1, length, cast(int, cast(Any, module).q_proj.in_features))
    # cos and sin repeat over both halves of a head, as transformers computes them.
    angle = torch.rand(1, length, cast(int, module.head_dim) // 2).repeat(1, 1, 2) * 7
    rotary = (angle.cos(), angle.sin())
    return x, {"position_embeddings": rotary, "attention_mask": None, "layout": single_row_layout(length)}


def single_row_layout(length: int) -> BlockLayout:
    """The layout of one causal row."""
    ids = np.arange(length)
    row = Row(ids, ids, ids, np.ones(length, np.float32))
    return BlockLayout(pack([Example("", (row,))]))


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., tuple[Tensor, None]]:
    """The fused forward; the module's own in calls without a layout or with a KV cache of transformers."""
    return partial(_forward, module, arithmetic)


def _forward(
    module: Any,
    arithmetic: Arithmetic,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **keywords: Any,
) -> Any:
    candidates = [linear_tensors(getattr(module, name), hidden_states) for name in PROJECTIONS]
    layers = [layer for layer in candidates if layer is not None]
    if len(layers) < len(PROJECTIONS) or position_embeddings is None or not is_packed_call(keywords):
        return type(module).forward(module, hidden_states, position_embeddings=position_embeddings, **keywords)
    # [T, h, D], [T, g, D], [T, g, D]
    q, k, v = (x.view(len(x), -1, module.head_dim) for x in apply_linears(layers[:3], hidden_states[0], arithmetic))
    norms = (getattr(module, name, None) for name in HEAD_NORMS)
    q, k = (x if norm is None else norm(x) for x, norm in zip((q, k), norms, strict=True))
    # SmolLM3 has layers without RoPE.
    if getattr(module, "use_rope", True):
        cosine, sine = (x[0, :, None] for x in position_embeddings)
        q, k = (_rotate(x, cosine, sine, arithmetic) for x in (q, k))
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = attend(module, keywords["layout"], q, k, v, attention_options(module))
    (y,) = apply_linears(layers[3:], out[0].flatten(1), arithmetic)
    return y[None], None


def is_packed_call(keywords: Mapping[str, Any]) -> bool:
    """Whether a call of a layer comes with a layout, and without a KV cache of transformers."""
    return keywords.get("layout") is not None and all(keywords.get(name) is None for name in CACHE_KEYWORDS)


def attention_options(module: Any) -> AttentionOptions:
    """The options that its attributes say."""
    # A layer's own sliding_window, None in layers with full attention, goes before that of the config.
    window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    dropout = module.attention_dropout if module.training else 0.0
    return AttentionOptions(module.scaling, window, getattr(module, "attn_logit_softcapping", None), dropout)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, arithmetic: Arithmetic) -> Tensor:
    """x [T, h, D] with the angles of its tokens, [T, 1, D] each."""
    if not torch.is_grad_enabled():
        return arithmetic.rotate(x, cosine, sine)
    return cast(Tensor, cast(Any, _Rotate.apply)(x, cosine, sine, arithmetic))


class _Rotate(torch.autograd.Function):
    """x [T, h, D] with each pair (x₁, x₂) of its halves rotated by its angle: (x₁ c − x₂ s, x₂ c + x₁ s)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, arithmetic: Arithmetic) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.arithmetic = arithmetic
        return arithmetic.rotate(x, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.arithmetic.rotate_backward(gradients[0], *ctx.saved_tensors), None, None, None
