"""The gated MLP (Shazeer 2020, arXiv 2002.05202): down(act(gate(x)) · up(x)).

Activation and product are computed again in the backward, so of four wide tensors two are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models import native
from bottega.models.arithmetic.native import activation_number
from bottega.models.arithmetic.plain import ACTIVATIONS, PLAIN, Arithmetic
from bottega.models.kernels.lora_linear import (
    LinearConstants,
    LinearTensors,
    flatten,
    linear_backward,
    linear_constants,
    linear_forward,
    linear_tensors,
    packed_handles,
    unflatten,
)

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def matches(module: nn.Module) -> bool:
    """Whether this has the three projections, and an activation known here."""
    has_layers = all(isinstance(getattr(module, name, None), nn.Module) for name in PROJECTIONS)
    return has_layers and callable(getattr(module, "act_fn", None)) and activation_name(module) is not None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """An input; no keyword arguments."""
    return torch.randn(1, length, cast(int, cast(Any, module).gate_proj.in_features)), {}


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """The fused forward; the module's own if a projection cannot be fused, or if called with more than x."""
    return partial(_forward, module, cast(str, activation_name(module)), arithmetic)


def _forward(
    module: nn.Module, activation: str, arithmetic: Arithmetic, x: Tensor, *arguments: Any, **keywords: Any
) -> Tensor:
    candidates = [linear_tensors(getattr(module, name), x) for name in PROJECTIONS]
    layers = [layer for layer in candidates if layer is not None]
    if len(layers) < len(PROJECTIONS) or arguments or keywords:
        return cast(Tensor, type(module).forward(module, x, *arguments, **keywords))
    if torch.is_grad_enabled():
        apply = cast(Any, _GatedMlp.apply)
        return cast(Tensor, apply(x, activation, arithmetic, linear_constants(layers), *flatten(layers)))
    y = _infer(x.flatten(0, -2), layers, activation, arithmetic)
    return y.view(*x.shape[:-1], y.shape[-1])


def _infer(x: Tensor, layers: Sequence[LinearTensors], activation: str, arithmetic: Arithmetic) -> Tensor:
    """x [T, in] → [T, out], without what a backward needs."""
    handles = packed_handles(layers)
    if handles is not None and native.fits(x):
        packed: Tensor = torch.ops.bottega.gated_mlp(x, *handles, activation_number(activation))
        return packed
    *gate_up, down = layers
    gate, up = linear_forward(x, gate_up, arithmetic)[0]
    (y,) = linear_forward(arithmetic.gated_product(gate, up, activation), [down], arithmetic)[0]
    return y


def activation_name(module: nn.Module, attribute: str = "act_fn") -> str | None:
    """The name of the activation that gives the values of the module's own; None if none does."""
    # Compared by value: transformers has several classes and functions for each of these.
    x = torch.linspace(-6, 6, 25)
    try:
        values = getattr(module, attribute)(x)
    except Exception:  # one of two arguments, or with weights of its own
        return None
    return next((name for name, (activate, _) in ACTIVATIONS.items() if torch.allclose(values, activate(x))), None)


class _GatedMlp(torch.autograd.Function):
    """x [… , in] → down(act(gate(x)) · up(x)); tensors are four per projection (`lora_linear.flatten`)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        activation: str,
        arithmetic: Arithmetic,
        constants: list[LinearConstants],
        *tensors: Tensor | None,
    ) -> Tensor:
        flat = x.flatten(0, -2)  # [T, in]
        *gate_up, down = unflatten(tensors, constants)
        (gate, up), u = linear_forward(flat, gate_up, arithmetic)
        (y,), u_down = linear_forward(arithmetic.gated_product(gate, up, activation), [down], arithmetic)
        ctx.save_for_backward(flat, gate, up, u, u_down, *tensors)
        ctx.activation, ctx.arithmetic, ctx.constants = activation, arithmetic, constants
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, gate, up, u, u_down, *tensors = ctx.saved_tensors
        arithmetic: Arithmetic = ctx.arithmetic
        *gate_up, down = unflatten(tensors, ctx.constants)
        # The first four arguments of the forward are no tensors of projections, of which there are four each.
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        d_y = gradients[0].flatten(0, -2)
        product = arithmetic.gated_product(gate, up, ctx.activation)
        d_product, d_down = linear_backward([d_y], product, u_down, [down], needs[8:], True, arithmetic)
        assert d_product is not None
        del product  # the widest tensors of the step: each is freed as soon as possible
        d_gate, d_up = arithmetic.gated_product_backward(d_product, gate, up, ctx.activation)
        del d_product, gate, up
        d_flat, d_gate_up = linear_backward([d_gate, d_up], flat, u, gate_up, needs[:8], needs_x, arithmetic)
        d_x = None if d_flat is None else d_flat.view(*gradients[0].shape[:-1], d_flat.shape[-1])
        return d_x, None, None, None, *d_gate_up, *d_down
