"""A LoRA layer as one autograd function: the same result as PEFT's forward, in fewer passes over memory.

PEFT computes base + scale · (x Aᵀ) Bᵀ as separate operations, and autograd adds up the gradients of x in another. Here
the thin products are added into the wide ones by the matmul itself, forward and backward, and only x and u = x Aᵀ are
kept. A layer this does not fit (dropout, several adapters, a base that is no plain linear) keeps PEFT's own forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def fuse(adapted: nn.Module) -> nn.Module:
    """The same PEFT model, each of its LoRA layers with the fused forward."""
    for module in adapted.modules():
        if isinstance(module, Linear):
            module.forward = partial(_forward, module)
    return adapted


def _forward(layer: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    if layer.disable_adapters and not layer.merged:
        return cast(Tensor, layer.base_layer(x))
    name = layer.active_adapters[0]
    if arguments or options or not _fits(layer, name, x):
        return cast(Tensor, type(layer).forward(layer, x, *arguments, **options))
    base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    apply = cast(Any, _LoraLinear.apply)
    return cast(Tensor, apply(x, base.weight, base.bias, a, b, layer.scaling[name]))


def _fits(layer: Any, name: str, x: Tensor) -> bool:
    return (
        len(layer.active_adapters) == 1
        and not layer.merged
        and name in layer.lora_A
        and name not in layer.lora_variant
        and type(layer.base_layer) is nn.Linear
        and not layer.base_layer.weight.requires_grad
        and x.dtype == layer.lora_A[name].weight.dtype
        and layer.lora_B[name].bias is None
        and (isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training)
    )


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ with W and bias frozen; x [… , in], A [r, in], B [out, r]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.flatten(0, -2)
        u = flat @ a.T
        y = nn.functional.linear(flat, weight, bias).addmm_(u, b.T, alpha=scale)
        ctx.save_for_backward(flat, u, weight, a, b)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, u, weight, a, b = ctx.saved_tensors
        shape, g = gradients[0].shape, gradients[0].flatten(0, -2)
        to_u = (g @ b).mul_(ctx.scale)
        to_x = (g @ weight).addmm_(to_u, a).view(*shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return to_x, None, None, to_u.T @ flat, (g.T @ u).mul_(ctx.scale), None
