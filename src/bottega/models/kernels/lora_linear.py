"""Linear layers with and without a LoRA, forward and backward, as steps that other functions are made of.

PEFT computes base + scale · (x Aᵀ) Bᵀ as separate operations, and autograd adds up the gradients of x in another. Here
the thin products are added into the wide ones by the matmul itself, forward and backward; those of layers with one
input are one product where they can be, and only x and u = x Aᵀ are kept; a packed weight is unpacked for each. A layer
this does not fit (dropout, several adapters, a base that is no linear layer) keeps PEFT's own forward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bottega.models.quantization.linear import QuantizedLinear

LinearConstants = tuple[float, QuantizedLinear | None]
"""What of a part no gradient is asked for: its scale, and the layer that holds its weight packed."""


class LinearTensors(NamedTuple):
    """y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ; weight [out, in], A [r, in], B [out, r], which may be absent.

    packed  the layer itself, where its weight is packed; `weight` is then absent
    """

    weight: Tensor | None
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    packed: QuantizedLinear | None = None

    def ahead(self, x: Tensor) -> Tensor:
        """x [T, in] → x Wᵀ + bias."""
        if self.packed is not None:
            return self.packed.ahead(x)
        return nn.functional.linear(x, cast(Tensor, self.weight), self.bias)

    def back(self, g: Tensor, before: Tensor | None) -> Tensor:
        """g [T, out] → g W, added to what was found `before`."""
        weight = cast(Tensor, self.weight) if self.packed is None else self.packed.unpacked()
        return g @ weight if before is None else before.addmm_(g, weight)


def linear_tensors(layer: nn.Module, x: Tensor) -> LinearTensors | None:
    """What `layer` computes of `x`; None where it is more than a `Part`."""
    if not matches(layer):
        return _base_tensors(layer)
    adapted = cast(Any, layer)
    base = _base_tensors(adapted.base_layer)
    if base is None or adapted.merged:
        return None
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


def _base_tensors(layer: nn.Module) -> LinearTensors | None:
    """A linear layer without an adapter; None for anything else."""
    if isinstance(layer, QuantizedLinear):
        return LinearTensors(None, layer.bias, packed=layer)
    return LinearTensors(layer.weight, layer.bias) if type(layer) is nn.Linear else None


def matches(module: nn.Module) -> bool:
    """Whether this is a LoRA layer; there is none before PEFT was imported, which takes seconds."""
    lora = sys.modules.get("peft.tuners.lora")
    return lora is not None and isinstance(module, lora.Linear)


def fused_forward(layer: nn.Module) -> Callable[..., Tensor]:
    """A LoRA layer's forward."""
    return partial(_forward, layer)


def _forward(layer: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    found = None if arguments or options else linear_tensors(layer, x)
    if found is None:
        return cast(Tensor, type(layer).forward(layer, x, *arguments, **options))
    (y,) = apply_linears([found], x.flatten(0, -2))
    return y.view(*x.shape[:-1], y.shape[-1])


def linear_forward(x: Tensor, layers: Sequence[LinearTensors]) -> tuple[list[Tensor], Tensor | None]:
    """([T, out] of each layer, u [T, Σr] of their adapters) of x [T, in]; the A matrices make one product."""
    outs = [layer.ahead(x) for layer in layers]
    stacked = _stack_lora_a(layers)
    if stacked is None:
        return outs, None
    u = x @ stacked.T
    for y, layer, own in zip(outs, layers, _split_by_rank(u, layers), strict=True):
        if layer.b is not None:
            y.addmm_(own, layer.b.T, alpha=layer.scale)
    return outs, u


def linear_backward(
    gradients: Sequence[Tensor],
    x: Tensor,
    u: Tensor | None,
    layers: Sequence[LinearTensors],
    needs: Sequence[bool],
    wanted: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """(gradient of x [T, in], those of weight, bias, A and B of each layer), from those of their outputs [T, out].

    needs   which are wanted, four a layer
    wanted  whether that of x is
    """
    to_x: Tensor | None = None
    found: list[Tensor | None] = []
    for g, layer, (weight, bias, _, _) in zip(gradients, layers, _groups_of_four(needs), strict=True):
        if wanted:
            to_x = layer.back(g, to_x)
        found += [g.T @ x if weight else None, g.sum(0) if bias and layer.bias is not None else None, None, None]
    stacked = _stack_lora_a(layers)
    if stacked is None or u is None:
        return to_x, found
    scaled = [
        (g @ layer.b).mul_(layer.scale) for g, layer in zip(gradients, layers, strict=True) if layer.b is not None
    ]
    to_u = scaled[0] if len(scaled) == 1 else torch.cat(scaled, 1)
    if to_x is not None:
        to_x.addmm_(to_u, stacked)
    to_a = _split_by_rank((to_u.T @ x).T, layers) if any(needs[2::4]) else None
    for place, (g, layer, own) in enumerate(zip(gradients, layers, _split_by_rank(u, layers), strict=True)):
        if layer.b is None:
            continue
        if to_a is not None and needs[4 * place + 2]:
            found[4 * place + 2] = to_a[place].T
        if needs[4 * place + 3]:
            # The thin factor first: half again as fast as the transposed product.
            found[4 * place + 3] = (own.T @ g).mul_(layer.scale).T
    return to_x, found


def _stack_lora_a(layers: Sequence[LinearTensors]) -> Tensor | None:
    """The A matrices of all layers that have one, [Σr, in]."""
    found = [layer.a for layer in layers if layer.a is not None]
    return None if not found else found[0] if len(found) == 1 else torch.cat(found)


def _split_by_rank(u: Tensor, layers: Sequence[LinearTensors]) -> Sequence[Tensor]:
    """The columns of u [T, Σr] that are each layer's, none for one without an adapter."""
    return torch.split(u, [0 if layer.a is None else len(layer.a) for layer in layers], 1)


def _groups_of_four(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[place : place + 4] for place in range(0, len(values), 4)]


def unflatten(tensors: Sequence[Any], constants: Sequence[LinearConstants]) -> list[LinearTensors]:
    """The parts of their tensors, four each, as autograd hands them back."""
    return [
        LinearTensors(weight, bias, a, b, *constant)
        for (weight, bias, a, b), constant in zip(_groups_of_four(tensors), constants, strict=True)
    ]


def flatten(layers: Sequence[LinearTensors]) -> list[Tensor | None]:
    """The inverse of `parts`: what of them has gradients."""
    return [tensor for layer in layers for tensor in layer[:4]]


def linear_constants(layers: Sequence[LinearTensors]) -> list[LinearConstants]:
    """And what of them has none."""
    return [(layer.scale, layer.packed) for layer in layers]


def apply_linears(layers: Sequence[LinearTensors], x: Tensor) -> tuple[Tensor, ...]:
    """[T, out] of each layer, of x [T, in]."""
    apply = cast(Any, _FusedLinears.apply)
    return cast(tuple[Tensor, ...], apply(x, linear_constants(layers), *flatten(layers)))


class _FusedLinears(torch.autograd.Function):
    """Some layers of one input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constants: list[LinearConstants], *given: Tensor | None) -> tuple[Tensor, ...]:
        outs, u = linear_forward(x, unflatten(given, constants))
        ctx.save_for_backward(x, u, *given)
        ctx.constants = constants
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, u, *given = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        to_x, rest = linear_backward(gradients, x, u, unflatten(given, ctx.constants), wanted[2:], wanted[0])
        return to_x, None, *rest
