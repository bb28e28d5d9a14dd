"""The gated feed-forward layer (Shazeer 2020, arXiv 2002.05202): down(act(gate(x)) · up(x)).

Its activation and product are computed again in the backward, so that of four wide tensors two are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.compile import compile_on_cuda
from bottega.models.kernels.lora_linear import (
    LinearConstants,
    flatten,
    linear_backward,
    linear_constants,
    linear_forward,
    linear_tensors,
    unflatten,
)

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
"""A function, and the gradient of its input from that of its output."""

ACTIVATIONS: dict[str, Activation] = {
    "silu": (torch.ops.aten.silu, torch.ops.aten.silu_backward),
    "gelu": (torch.ops.aten.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: torch.ops.aten.gelu(x, approximate="tanh"),
        lambda g, x: torch.ops.aten.gelu_backward(g, x, approximate="tanh"),
    ),
}


def matches(module: nn.Module) -> bool:
    """Whether this is made of the three linear layers and an activation known here."""
    layers = all(isinstance(getattr(module, name, None), nn.Module) for name in PROJECTIONS)
    return layers and callable(getattr(module, "act_fn", None)) and _activation_name(module) is not None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """What it is proved on: an input, and nothing beside it."""
    return torch.randn(1, length, cast(int, cast(Any, module).gate_proj.in_features)), {}


def fused_forward(module: nn.Module) -> Callable[..., Tensor]:
    """Its forward; what is written in its class where a linear layer is more than can be fused, or more is given."""
    return partial(_forward, module, cast(str, _activation_name(module)))


def _forward(module: nn.Module, activation: str, x: Tensor, *more: Any, **options: Any) -> Tensor:
    found = [linear_tensors(getattr(module, name), x) for name in PROJECTIONS]
    layers = [layer for layer in found if layer is not None]
    if len(layers) < len(PROJECTIONS) or more or options:
        return cast(Tensor, type(module).forward(module, x, *more, **options))
    apply = cast(Any, _GatedMlp.apply)
    return cast(Tensor, apply(x, activation, linear_constants(layers), *flatten(layers)))


def _activation_name(module: nn.Module) -> str | None:
    """The name of the activation that computes what the module's does."""
    x = torch.linspace(-6, 6, 25)
    try:
        own = cast(Any, module).act_fn(x)
    except Exception:  # one of two arguments, or with weights of its own
        return None
    return next((name for name, (ahead, _) in ACTIVATIONS.items() if torch.allclose(own, ahead(x))), None)


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, constants: list[LinearConstants], *given: Tensor | None) -> Tensor:
        flat = x.flatten(0, -2)
        *wide, down = unflatten(given, constants)
        (gated, raised), u = linear_forward(flat, wide)
        (y,), u_down = linear_forward(_activate_and_multiply(gated, raised, name), [down])
        ctx.save_for_backward(flat, gated, raised, u, u_down, *given)
        ctx.name, ctx.constants = name, constants
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, gated, raised, u, u_down, *given = ctx.saved_tensors
        *wide, down = unflatten(given, ctx.constants)
        wanted, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        g = gradients[0].flatten(0, -2)
        # A kernel computes the activation again in no time; a CPU keeps it from the one use to the other.
        active = None if g.is_cuda else ACTIVATIONS[ctx.name][0](gated)
        product = _activate_and_multiply(gated, raised, ctx.name) if active is None else active * raised
        to_product, of_down = linear_backward([g], product, u_down, [down], needs[8:], True)
        assert to_product is not None
        del product
        if active is None:
            to_gated, to_raised = _gate_and_up_gradients(to_product, gated, raised, ctx.name)
        else:
            to_raised = active.mul_(to_product)
            to_gated = ACTIVATIONS[ctx.name][1](to_product.mul_(raised), gated)
        to_x, of_wide = linear_backward([to_gated, to_raised], flat, u, wide, needs[:8], wanted)
        shaped = None if to_x is None else to_x.view(*gradients[0].shape[:-1], to_x.shape[-1])
        return shaped, None, None, *of_wide, *of_down


@compile_on_cuda
def _activate_and_multiply(gated: Tensor, raised: Tensor, name: str) -> Tensor:
    """act(gated) · raised."""
    return ACTIVATIONS[name][0](gated).mul_(raised)


@compile_on_cuda
def _gate_and_up_gradients(g: Tensor, gated: Tensor, raised: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The gradients of gated and raised from that of their product."""
    activate, deactivate = ACTIVATIONS[name]
    return deactivate(g * raised, gated), activate(gated) * g
