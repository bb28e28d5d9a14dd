"""Linear layers with and without a LoRA, forward and backward, as steps that other functions are made of.

PEFT computes base + scale · (x Aᵀ) Bᵀ as separate operations, and autograd adds up the gradients of x in another. Here
the thin products are added into the wide ones by the matmul itself, forward and backward, and only x and u = x Aᵀ are
kept. A layer this does not fit (dropout, several adapters, a base that is no plain linear) keeps PEFT's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Part(NamedTuple):
    """y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ; weight [out, in], A [r, in], B [out, r], which may be absent."""

    weight: Tensor
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, tensors: Sequence[Any], scale: float) -> Part:
        """The part of its four tensors, as autograd hands them back."""
        weight, bias, a, b = tensors
        return cls(weight, bias, a, b, scale)


def part(layer: nn.Module, x: Tensor) -> Part | None:
    """What `layer` computes of `x`; None where it is more than a `Part`."""
    if type(layer) is nn.Linear:
        return Part(layer.weight, layer.bias)
    if not fits(layer):
        return None
    adapted = cast(Any, layer)
    if type(adapted.base_layer) is not nn.Linear or adapted.merged:
        return None
    base = Part(adapted.base_layer.weight, adapted.base_layer.bias)
    if adapted.disable_adapters:
        return base
    name = adapted.active_adapters[0]
    simple = (
        len(adapted.active_adapters) == 1
        and name in adapted.lora_A
        and name not in adapted.lora_variant
        and x.dtype == adapted.lora_A[name].weight.dtype
        and adapted.lora_B[name].bias is None
        and (isinstance(adapted.lora_dropout[name], nn.Identity) or not adapted.training)
    )
    if not simple:
        return None
    return base._replace(a=adapted.lora_A[name].weight, b=adapted.lora_B[name].weight, scale=adapted.scaling[name])


def fits(module: nn.Module) -> bool:
    """Whether this is a LoRA layer."""
    return isinstance(module, Linear)


def fused(layer: nn.Module) -> Callable[..., Tensor]:
    """A LoRA layer's forward."""
    return partial(_forward, layer)


def _forward(layer: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    found = None if arguments or options else part(layer, x)
    if found is None:
        return cast(Tensor, type(layer).forward(layer, x, *arguments, **options))
    apply = cast(Any, _Linear.apply)
    return cast(Tensor, apply(x, found.scale, *found[:4]))


def ahead(x: Tensor, layer: Part) -> tuple[Tensor, Tensor | None]:
    """(y [T, out], u [T, r]) of x [T, in]."""
    y = nn.functional.linear(x, layer.weight, layer.bias)
    if layer.a is None or layer.b is None:
        return y, None
    u = x @ layer.a.T
    return y.addmm_(u, layer.b.T, alpha=layer.scale), u


def back(
    g: Tensor, x: Tensor, u: Tensor | None, layer: Part, needs: Sequence[bool], to_x: Tensor | None, wanted: bool
) -> tuple[Tensor | None, Gradients]:
    """(gradient of x added to `to_x`, gradients of weight, bias, A and B), from g [T, out].

    needs   which of the four are wanted
    wanted  whether the gradient of x is
    """
    weight, bias, a, b, scale = layer
    if wanted:
        to_x = g @ weight if to_x is None else to_x.addmm_(g, weight)
    to_weight = g.T @ x if needs[0] else None
    to_bias = g.sum(0) if bias is not None and needs[1] else None
    if a is None or b is None or u is None:
        return to_x, (to_weight, to_bias, None, None)
    to_u = (g @ b).mul_(scale)
    if to_x is not None and wanted:
        to_x.addmm_(to_u, a)
    # The thin factor first: half again as fast as the transposed product.
    to_b = (u.T @ g).mul_(scale).T if needs[3] else None
    return to_x, (to_weight, to_bias, to_u.T @ x if needs[2] else None, to_b)


class _Linear(torch.autograd.Function):
    """One `Part`, of x with any leading dimensions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, *tensors: Tensor | None) -> Tensor:
        flat = x.flatten(0, -2)
        y, u = ahead(flat, Part.of(tensors, scale))
        ctx.save_for_backward(flat, u, *tensors)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, u, *tensors = ctx.saved_tensors
        g, wanted = gradients[0], ctx.needs_input_grad
        to_x, rest = back(g.flatten(0, -2), flat, u, Part.of(tensors, ctx.scale), wanted[2:], None, wanted[0])
        return None if to_x is None else to_x.view(*g.shape[:-1], -1), None, *rest
