"""The gated MLP (Shazeer 2020, arXiv 2002.05202): down(act(gate(x)) · up(x)).

Activation and product are computed again in the backward, so of four wide tensors two are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models import native
from bottega.models.compile import compile_on_cuda
from bottega.models.kernels.lora_linear import (
    LinearConstants,
    flatten,
    linear_backward,
    linear_constants,
    linear_forward,
    linear_tensors,
    packed_handles,
    unflatten,
)

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

# (x → act(x); (gradient of the output, x) → gradient of x)
Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]

# In the order of the numbers that `native/kernels.cpp` has for them.
ACTIVATIONS: dict[str, Activation] = {
    "silu": (torch.ops.aten.silu, torch.ops.aten.silu_backward),
    "gelu": (torch.ops.aten.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: torch.ops.aten.gelu(x, approximate="tanh"),
        lambda g, x: torch.ops.aten.gelu_backward(g, x, approximate="tanh"),
    ),
}


def matches(module: nn.Module) -> bool:
    """Whether this has the three projections, and an activation known here."""
    has_layers = all(isinstance(getattr(module, name, None), nn.Module) for name in PROJECTIONS)
    return has_layers and callable(getattr(module, "act_fn", None)) and _activation_name(module) is not None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """An input; no keyword arguments."""
    return torch.randn(1, length, cast(int, cast(Any, module).gate_proj.in_features)), {}


def fused_forward(module: nn.Module) -> Callable[..., Tensor]:
    """The fused forward; the module's own if a projection cannot be fused, or if called with more than x."""
    return partial(_forward, module, cast(str, _activation_name(module)))


def native_forward(module: nn.Module, fused: Callable[..., Tensor], proved: Collection[str]) -> Callable[..., Tensor]:
    """The forward in C++ of packed layers without adapters where no gradient is wanted; else `fused`."""
    return partial(_native_forward, module, fused, activation_number(module))


def _native_forward(
    module: nn.Module, fused: Callable[..., Tensor], activation: int, x: Tensor, *arguments: Any, **keywords: Any
) -> Tensor:
    handles = None
    if not (arguments or keywords) and native.fits(x):
        handles = packed_handles([linear_tensors(getattr(module, name), x) for name in PROJECTIONS])
    if handles is None:
        return fused(x, *arguments, **keywords)
    y: Tensor = torch.ops.bottega.gated_mlp(x.flatten(0, -2), *handles, activation)
    return y.view(*x.shape[:-1], y.shape[-1])


def _forward(module: nn.Module, activation: str, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    candidates = [linear_tensors(getattr(module, name), x) for name in PROJECTIONS]
    layers = [layer for layer in candidates if layer is not None]
    if len(layers) < len(PROJECTIONS) or arguments or keywords:
        return cast(Tensor, type(module).forward(module, x, *arguments, **keywords))
    if not torch.is_grad_enabled():
        *gate_up, down = layers
        gate, up = linear_forward(x.flatten(0, -2), gate_up)[0]
        (y,) = linear_forward(_activate_and_multiply(gate, up, activation), [down])[0]
        return y.view(*x.shape[:-1], y.shape[-1])
    apply = cast(Any, _GatedMlp.apply)
    return cast(Tensor, apply(x, activation, linear_constants(layers), *flatten(layers)))


def activation_number(module: nn.Module) -> int:
    """The number of its activation in `native/kernels.cpp`."""
    return list(ACTIVATIONS).index(cast(str, _activation_name(module)))


def _activation_name(module: nn.Module) -> str | None:
    """The name of the activation that gives the module's values; None if none does."""
    # Compared by value: transformers has several classes and functions for each of these.
    x = torch.linspace(-6, 6, 25)
    try:
        values = cast(Any, module).act_fn(x)
    except Exception:  # one of two arguments, or with weights of its own
        return None
    return next((name for name, (activate, _) in ACTIVATIONS.items() if torch.allclose(values, activate(x))), None)


class _GatedMlp(torch.autograd.Function):
    """x [… , in] → down(act(gate(x)) · up(x)); tensors are four per projection (`lora_linear.flatten`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, constants: list[LinearConstants], *tensors: Tensor | None) -> Tensor:
        flat = x.flatten(0, -2)  # [T, in]
        *gate_up, down = unflatten(tensors, constants)
        (gate, up), u = linear_forward(flat, gate_up)
        (y,), u_down = linear_forward(_activate_and_multiply(gate, up, name), [down])
        ctx.save_for_backward(flat, gate, up, u, u_down, *tensors)
        ctx.name, ctx.constants = name, constants
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, gate, up, u, u_down, *tensors = ctx.saved_tensors
        *gate_up, down = unflatten(tensors, ctx.constants)
        # The first three arguments of the forward are x, name and constants; then come four tensors per projection.
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        d_y = gradients[0].flatten(0, -2)
        # A fused CUDA kernel computes the activation again at no cost; a CPU keeps it between its two uses.
        active = None if d_y.is_cuda else ACTIVATIONS[ctx.name][0](gate)
        product = _activate_and_multiply(gate, up, ctx.name) if active is None else active * up
        d_product, d_down = linear_backward([d_y], product, u_down, [down], needs[8:], True)
        assert d_product is not None
        del product  # the widest tensors of the step: each is freed or reused as soon as possible
        if active is None:
            d_gate, d_up = _gate_and_up_gradients(d_product, gate, up, ctx.name)
        else:
            d_up = active.mul_(d_product)
            d_gate = ACTIVATIONS[ctx.name][1](d_product.mul_(up), gate)
        d_flat, d_gate_up = linear_backward([d_gate, d_up], flat, u, gate_up, needs[:8], needs_x)
        d_x = None if d_flat is None else d_flat.view(*gradients[0].shape[:-1], d_flat.shape[-1])
        return d_x, None, None, *d_gate_up, *d_down


@compile_on_cuda
def _activate_and_multiply(gate: Tensor, up: Tensor, name: str) -> Tensor:
    """act(gate) · up."""
    return ACTIVATIONS[name][0](gate).mul_(up)


@compile_on_cuda
def _gate_and_up_gradients(d_product: Tensor, gate: Tensor, up: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Gradients of (gate, up) from that of act(gate) · up."""
    activate, activation_backward = ACTIVATIONS[name]
    return activation_backward(d_product * up, gate), activate(gate) * d_product
