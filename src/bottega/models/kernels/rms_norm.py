"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) that keeps x and one number per token for its backward."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models import native
from bottega.models.compile import compile_on_cuda


def matches(module: nn.Module) -> bool:
    """Whether this looks like an RMSNorm: one vector of weights, and an epsilon."""
    parameters = dict(module.named_parameters())
    return set(parameters) == {"weight"} and parameters["weight"].dim() == 1 and _epsilon(module) is not None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """An input; no keyword arguments."""
    return torch.randn(1, length, len(cast(Tensor, module.weight))), {}


def fused_forward(module: nn.Module) -> Callable[..., Tensor]:
    """x → x / rms(x) · (weight + offset) over the last dimension; the module's own if called with more than x."""
    return partial(_forward, module, *settings(module))


def settings(module: nn.Module) -> tuple[float, float]:
    """(epsilon, offset) of a norm that `matches`."""
    return cast(float, _epsilon(module)), _offset(module)


def _forward(module: nn.Module, epsilon: float, offset: float, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    if arguments or keywords:  # a gate, as in Mamba's norms
        return cast(Tensor, type(module).forward(module, x, *arguments, **keywords))
    if not torch.is_grad_enabled():
        weight = cast(Tensor, module.weight)
        return nn.functional.rms_norm(x, x.shape[-1:], weight + offset if offset else weight, epsilon)
    apply = cast(Any, _RmsNorm.apply)
    return cast(Tensor, apply(x, module.weight, epsilon, offset))


def native_forward(module: nn.Module, fused: Callable[..., Tensor], proved: Collection[str]) -> Callable[..., Tensor]:
    """x → x / rms(x) · (weight + offset) in C++ where no gradient is wanted; else `fused`."""
    return partial(_native_forward, module, fused, settings(module))


def _native_forward(
    module: nn.Module,
    fused: Callable[..., Tensor],
    own_settings: tuple[float, float],
    x: Tensor,
    *arguments: Any,
    **keywords: Any,
) -> Tensor:
    weight = cast(Tensor, module.weight)
    if arguments or keywords or not native.fits(x, weight):
        return fused(x, *arguments, **keywords)
    return cast(Tensor, torch.ops.bottega.rms_norm(x, weight, *own_settings))


def _epsilon(module: nn.Module) -> float | None:
    # Llama and its relatives say variance_epsilon, Gemma and torch eps.
    values = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
    return next((value for value in values if isinstance(value, float)), None)


def _offset(module: nn.Module) -> float:
    """What is added to the weight: 1 in Gemma, whose weights start at 0; else 0."""
    weight = cast(Tensor, module.weight).detach()
    # Ones have RMS 1, so the module's output for them is weight + offset.
    output = module(torch.ones_like(weight)[None])[0].detach()
    return min((0.0, 1.0), key=lambda offset: float((output - weight - offset).abs().sum()))


class _RmsNorm(torch.autograd.Function):
    """y = x · r · (weight + offset) with r = 1 / sqrt(mean(x²) + epsilon) per token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        y, inverse = _normalize(x, weight, epsilon, offset)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        d_y, d_weight = gradients[0], None
        if ctx.needs_input_grad[1]:
            d_weight = _weight_gradient(d_y, x, inverse).flatten(0, -2).sum(0).to(weight.dtype)
        return _input_gradient(d_y, x, weight, inverse, ctx.offset), d_weight, None, None


@compile_on_cuda
def _normalize(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    """(y, 1 / rms of each token [… , 1])."""
    # A copy also where the dtype is the same: the product is computed in its memory.
    wide = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return wide.mul_(inverse).mul_(weight + offset).to(x.dtype), inverse


@compile_on_cuda
def _weight_gradient(d_y: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """[…, H]: the summand of each token in the gradient of the weight."""
    return (x.to(inverse.dtype) * inverse).mul_(d_y)


@compile_on_cuda
def _input_gradient(d_y: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float) -> Tensor:
    """∂x = r · g − x · r³ · mean(g · x) with g = ∂y · (weight + offset)."""
    wide, g = x.to(inverse.dtype), d_y.to(inverse.dtype, copy=True)
    g.mul_(weight + offset)
    along_x = (g * wide).sum(-1, keepdim=True).mul_(inverse**3 / -x.shape[-1])  # [… , 1]
    return g.mul_(inverse).addcmul_(wide, along_x).to(x.dtype)
