"""The gated feed-forward layer (Shazeer 2020, arXiv 2002.05202): down(act(gate(x)) · up(x)).

Its activation and product are computed again in the backward, so that of four wide tensors two are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.fused.linear import Part, ahead, back, part

NAMES = ("gate_proj", "up_proj", "down_proj")

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


def fits(module: nn.Module) -> bool:
    """Whether this is made of the three linear layers and an activation known here."""
    return all(hasattr(module, name) for name in (*NAMES, "act_fn")) and _activation(module) is not None


def width(module: nn.Module) -> int:
    """Features of its input."""
    return cast(int, cast(Any, module).gate_proj.in_features)


def fused(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Its forward; what is written in its class where a linear layer is more than can be fused."""
    return partial(_forward, module, cast(str, _activation(module)))


def _forward(module: nn.Module, activation: str, x: Tensor) -> Tensor:
    parts = [part(getattr(module, name), x) for name in NAMES]
    if None in parts:
        return cast(Tensor, type(module).forward(module, x))
    found = cast(list[Part], parts)
    apply = cast(Any, _GatedMlp.apply)
    tensors = [tensor for one in found for tensor in one[:4]]
    return cast(Tensor, apply(x, activation, [one.scale for one in found], *tensors))


def _activation(module: nn.Module) -> str | None:
    """The name of the activation that computes what the module's does."""
    x = torch.linspace(-6, 6, 25)
    own = cast(Any, module).act_fn
    return next((name for name, (ahead, _) in ACTIVATIONS.items() if torch.allclose(own(x), ahead(x))), None)


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, scales: list[float], *tensors: Tensor | None) -> Tensor:
        flat = x.flatten(0, -2)
        gate, up, down = _parts(tensors, scales)
        gated, u_gate = ahead(flat, gate)
        raised, u_up = ahead(flat, up)
        y, u_down = ahead(ACTIVATIONS[name][0](gated).mul_(raised), down)
        ctx.save_for_backward(flat, gated, raised, u_gate, u_up, u_down, *tensors)
        ctx.name, ctx.scales = name, scales
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, gated, raised, u_gate, u_up, u_down, *tensors = ctx.saved_tensors
        gate, up, down = _parts(tensors, ctx.scales)
        wanted, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        activate, deactivate = ACTIVATIONS[ctx.name]
        g = gradients[0].flatten(0, -2)
        active = activate(gated)
        to_product, of_down = back(g, active * raised, u_down, down, needs[8:], None, True)
        assert to_product is not None
        to_x, of_up = back(active.mul_(to_product), flat, u_up, up, needs[4:8], None, wanted)
        to_gated = deactivate(to_product.mul_(raised), gated)
        to_x, of_gate = back(to_gated, flat, u_gate, gate, needs[:4], to_x, wanted)
        shaped = None if to_x is None else to_x.view(*gradients[0].shape[:-1], -1)
        return shaped, None, None, *of_gate, *of_up, *of_down


def _parts(tensors: Any, scales: list[float]) -> tuple[Part, Part, Part]:
    gate, up, down = (Part.of(tensors[4 * place : 4 * place + 4], scale) for place, scale in enumerate(scales))
    return gate, up, down
