"""The layers of BERT-like encoders (Devlin et al. 2019, arXiv 1810.04805), the last only where it is read.

Queries, keys and values are one call; dropout, the residual sum and the layer norm are one pass; the activation of the
MLP is computed again in the backward. Of the last layer, keys and values are needed of every token; the rest of it,
five sixths of its products, only at the positions a head reads: the first token of each row for a classifier, one
token in seven for a masked language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.attention.mask import AttentionOptions
from bottega.models.fast_dropout import LEVELS, DropoutDraw, draw_dropout, dropped_levels
from bottega.models.kernels.attention import single_row_layout
from bottega.models.kernels.gated_mlp import activation_name
from bottega.models.kernels.lora_linear import (
    LinearConstants,
    LinearTensors,
    apply_linears,
    flatten,
    linear_backward,
    linear_constants,
    linear_forward,
    linear_tensors,
    unflatten,
)


def matches(module: nn.Module) -> bool:
    """Whether this has the modules of a BERT layer, and no cross attention."""
    layer = cast(Any, module)
    attention = getattr(getattr(layer, "attention", None), "self", None)
    names = ("query", "key", "value", "dropout", "scaling", "attention_head_size")
    has_attention = all(hasattr(attention, name) for name in names)
    outputs = [getattr(part, "output", None) for part in (getattr(layer, "attention", None), layer)]
    has_outputs = all(hasattr(output, name) for output in outputs for name in ("dense", "dropout", "LayerNorm"))
    has_mlp = hasattr(getattr(layer, "intermediate", None), "dense")
    return has_attention and has_outputs and has_mlp and not hasattr(layer, "crossattention")


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """One row of which every position is read: elsewhere the fused forward gives zeros."""
    x = torch.randn(1, length, cast(int, cast(Any, module).attention.self.query.in_features))
    return x, {"layout": single_row_layout(length), "read": torch.arange(length)}


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """The layer at the positions in `read`, zeros elsewhere; at all positions without `read`."""
    return partial(_forward, module, activation_name(cast(Any, module).intermediate, "intermediate_act_fn"), arithmetic)


def whole_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """The same at all positions, whatever is read: of the layers before the last."""
    # A partial, not a function within this one: a copy of the module must compute with its own weights.
    return partial(_at_all_positions, fused_forward(module, arithmetic))


def _at_all_positions(forward: Callable[..., Tensor], *arguments: Any, read: Any = None, **keywords: Any) -> Tensor:
    return forward(*arguments, **keywords)


def _forward(
    module: Any,
    activation: str | None,
    arithmetic: Arithmetic,
    hidden_states: Tensor,
    *arguments: Any,
    read: Tensor | None = None,
    layout: Any = None,
    **keywords: Any,
) -> Tensor:
    """read  [N] positions in the flat sequence, each once"""
    # The first argument may be a mask, which the layout stands for; others are for cross attention or a cache.
    if layout is None or any(value is not None for value in (*arguments[1:], keywords.get("past_key_values"))):
        return cast(Tensor, type(module).forward(module, hidden_states, *arguments, layout=layout, **keywords))
    attention, (x,) = module.attention.self, hidden_states  # [T, H]
    residual = x if read is None else x.index_select(0, read)  # [N, H]
    if read is None:
        query, key, value = _project((attention.query, attention.key, attention.value), x, arithmetic)
    else:
        key, value = _project((attention.key, attention.value), x, arithmetic)
        (queries,) = _project((attention.query,), residual, arithmetic)
        # The layout is that of all tokens, so the queries stand among zeros: [T, H].
        query = x.new_zeros(len(x), queries.shape[1]).index_copy(0, read, queries)
    q, k, v = (y.view(1, len(x), -1, attention.attention_head_size).transpose(1, 2) for y in (query, key, value))
    dropout = attention.dropout.p if module.training else 0.0
    attended = layout.attend(q, k, v, AttentionOptions(attention.scaling, dropout=dropout))[0].flatten(1)  # [T, H]
    attended = attended if read is None else attended.index_select(0, read)
    (y,) = _project((module.attention.output.dense,), attended, arithmetic)
    y = _add_and_normalize(module.attention.output, y, residual, arithmetic)
    y = _add_and_normalize(module.output, _mlp(module, activation, y, arithmetic), y, arithmetic)
    return y[None] if read is None else torch.zeros_like(x).index_copy(0, read, y)[None]


def _project(layers: Sequence[nn.Module], x: Tensor, arithmetic: Arithmetic) -> Sequence[Tensor]:
    """x [T, in] → [T, out] of each layer."""
    tensors = [linear_tensors(layer, x) for layer in layers]
    fused = [layer for layer in tensors if layer is not None]
    return apply_linears(fused, x, arithmetic) if len(fused) == len(layers) else [layer(x) for layer in layers]


def _mlp(module: Any, activation: str | None, x: Tensor, arithmetic: Arithmetic) -> Tensor:
    """x [N, H] → out(act(in(x))) [N, H]."""
    layers = [linear_tensors(layer, x) for layer in (module.intermediate.dense, module.output.dense)]
    fused = [layer for layer in layers if layer is not None]
    if len(fused) < len(layers) or activation is None:
        return cast(Tensor, module.output.dense(module.intermediate(x)))
    if torch.is_grad_enabled():
        apply = cast(Any, _Mlp.apply)
        return cast(Tensor, apply(x, activation, arithmetic, linear_constants(fused), *flatten(fused)))
    (inner,) = linear_forward(x, fused[:1], arithmetic)[0]
    return linear_forward(arithmetic.activate(inner, activation), fused[1:], arithmetic)[0][0]


def _add_and_normalize(output: Any, x: Tensor, residual: Tensor, arithmetic: Arithmetic) -> Tensor:
    """The layer norm of dropout(x) + residual, all [N, H]."""
    norm, p = output.LayerNorm, output.dropout.p if output.training else 0.0
    is_plain = type(norm) is nn.LayerNorm and norm.bias is not None and type(output.dropout) is nn.Dropout
    if not is_plain or dropped_levels(p) == LEVELS:
        return cast(Tensor, norm(output.dropout(x) + residual))
    inputs = (x, residual, norm.weight, norm.bias, norm.eps, draw_dropout(p))
    if not torch.is_grad_enabled():
        return arithmetic.add_and_normalize(*inputs)[0]
    return cast(Tensor, cast(Any, _AddAndNormalize.apply)(*inputs, arithmetic))


class _AddAndNormalize(torch.autograd.Function):
    """The layer norm of dropout(x) + residual."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        draw: DropoutDraw,
        arithmetic: Arithmetic,
    ) -> Tensor:
        y, total, mean, inverse = arithmetic.add_and_normalize(x, residual, weight, bias, epsilon, draw)
        ctx.save_for_backward(total, weight, bias, mean, inverse)
        ctx.draw, ctx.arithmetic = draw, arithmetic
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needs_weight = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        gradients_of = ctx.arithmetic.add_and_normalize_backward
        return *gradients_of(gradients[0], *ctx.saved_tensors, ctx.draw, needs_weight), None, None, None


class _Mlp(torch.autograd.Function):
    """x [N, H] → out(act(in(x))); tensors are four per layer (`lora_linear.flatten`)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        activation: str,
        arithmetic: Arithmetic,
        constants: list[LinearConstants],
        *tensors: Tensor | None,
    ) -> Tensor:
        first, second = unflatten(tensors, constants)
        (inner,), u = linear_forward(x, [first], arithmetic)
        (y,), u_second = linear_forward(arithmetic.activate(inner, activation), [second], arithmetic)
        ctx.save_for_backward(x, inner, u, u_second, *tensors)
        ctx.activation, ctx.arithmetic, ctx.constants = activation, arithmetic, constants
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, u, u_second, *tensors = ctx.saved_tensors
        arithmetic: Arithmetic = ctx.arithmetic
        first, second = cast(Sequence[LinearTensors], unflatten(tensors, ctx.constants))
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        activated, slope = arithmetic.activate_with_slope(inner, ctx.activation)
        d_activated, d_second = linear_backward(gradients, activated, u_second, [second], needs[4:], True, arithmetic)
        assert d_activated is not None
        del activated
        d_inner = d_activated.mul_(slope)
        d_x, d_first = linear_backward([d_inner], x, u, [first], needs[:4], needs_x, arithmetic)
        return d_x, None, None, None, *d_first, *d_second
