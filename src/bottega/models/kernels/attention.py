"""The way into attention and out of it, of layers with q, k, v and o projections and rotary positions.

The three projections are one function of their input, as their gradients of it are one sum. A rotation (Su et al. 2021,
arXiv 2104.09864) is three passes forward and back, and keeps nothing. What the layer asks of the attention itself is
read from it by the names that transformers gives these things.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bottega.batch import Example, Row
from bottega.models.attention import CACHE_KEYWORDS
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.mask import AttentionOptions
from bottega.models.compile import compile_on_cuda
from bottega.models.kernels.lora_linear import apply_linears, linear_tensors
from bottega.packing import pack

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
REQUIRED_ATTRIBUTES = ("head_dim", "scaling", "attention_dropout")


def matches(module: nn.Module) -> bool:
    """Whether this has the projections, says what such layers say, and does not clip, which shows at times only."""
    says = all(hasattr(module, name) for name in (*PROJECTIONS, *REQUIRED_ATTRIBUTES, "config"))
    return says and getattr(cast(Any, module).config, "clip_qkv", None) is None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """What it is proved on: an input of one row, and what it is called with beside it."""
    x = torch.randn(1, length, cast(int, cast(Any, module).q_proj.in_features))
    angle = torch.rand(1, length, cast(int, module.head_dim) // 2).repeat(1, 1, 2) * 7
    rotary = (angle.cos(), angle.sin())
    return x, {"position_embeddings": rotary, "attention_mask": None, "layout": single_row_layout(length)}


def single_row_layout(length: int) -> BlockLayout:
    """The layout of one row."""
    ids = np.arange(length)
    row = Row(ids, ids, ids, np.ones(length, np.float32))
    return BlockLayout(pack([Example("", (row,))]))


def fused_forward(module: nn.Module) -> Callable[..., tuple[Tensor, None]]:
    """Its forward where the whole layout is at hand; elsewhere, and with a cache, its own."""
    return partial(_forward, module)


def _forward(
    module: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None, **options: Any
) -> Any:
    found = [linear_tensors(getattr(module, name), hidden_states) for name in PROJECTIONS[:3]]
    layers = [layer for layer in found if layer is not None]
    layout = options.get("layout")
    cached = any(options.get(name) is not None for name in CACHE_KEYWORDS)
    if len(layers) < 3 or layout is None or position_embeddings is None or cached:
        return type(module).forward(module, hidden_states, position_embeddings=position_embeddings, **options)
    q, k, v = (x.view(len(x), -1, module.head_dim) for x in apply_linears(layers, hidden_states[0]))
    norms = (getattr(module, name, None) for name in ("q_norm", "k_norm"))
    q, k = (x if norm is None else norm(x) for x, norm in zip((q, k), norms, strict=True))
    if getattr(module, "use_rope", True):
        cosine, sine = (x[0, :, None] for x in position_embeddings)
        q, k = (cast(Tensor, cast(Any, _Rotate.apply)(x, cosine, sine)) for x in (q, k))
    out = layout.attend(*(x.transpose(0, 1)[None] for x in (q, k, v)), _attention_options(module))
    return module.o_proj(out.flatten(2)), None


def _attention_options(module: Any) -> AttentionOptions:
    window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    dropout = module.attention_dropout if module.training else 0.0
    return AttentionOptions(module.scaling, window, getattr(module, "attn_logit_softcapping", None), dropout)


class _Rotate(torch.autograd.Function):
    """x [T, h, D] with each pair (x₁, x₂) of its halves turned by its angle: (x₁ c − x₂ s, x₂ c + x₁ s)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotate(x, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _rotate_back(gradients[0], *ctx.saved_tensors), None, None


@compile_on_cuda
def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cosine
    out[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sine[..., half:])
    return out


@compile_on_cuda
def _rotate_back(g: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = g.shape[-1] // 2
    to_x = g * cosine
    to_x[..., :half].addcmul_(g[..., half:], sine[..., half:])
    to_x[..., half:].addcmul_(g[..., :half], sine[..., :half], value=-1)
    return to_x
