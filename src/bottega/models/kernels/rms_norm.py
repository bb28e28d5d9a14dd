"""RMS normalisation (Zhang and Sennrich 2019, arXiv 1910.07467) of which only x and a number a token are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.compile import compile_on_cuda


def matches(module: nn.Module) -> bool:
    """Whether this looks like an RMSNorm: one vector of weights and a small number."""
    own = dict(module.named_parameters())
    return set(own) == {"weight"} and own["weight"].dim() == 1 and _epsilon(module) is not None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """What it is proved on: an input, and nothing beside it."""
    return torch.randn(1, length, len(cast(Tensor, module.weight))), {}


def fused_forward(module: nn.Module) -> Callable[..., Tensor]:
    """x → x / rms(x) · (weight + offset), over the last dimension; its own where it is given more than x."""
    return partial(_forward, module, cast(float, _epsilon(module)), _offset(module))


def _forward(module: nn.Module, epsilon: float, offset: float, x: Tensor, *more: Any, **options: Any) -> Tensor:
    if more or options:  # a gate, as Mamba's norms have
        return cast(Tensor, type(module).forward(module, x, *more, **options))
    apply = cast(Any, _RmsNorm.apply)
    return cast(Tensor, apply(x, module.weight, epsilon, offset))


def _epsilon(module: nn.Module) -> float | None:
    named = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
    return next((value for value in named if isinstance(value, float)), None)


def _offset(module: nn.Module) -> float:
    """What is added to the weight: 1 in Gemma, whose weights start at 0; else nothing."""
    weight = cast(Tensor, module.weight).detach()
    # The root mean square of this is 1.
    own = module(torch.ones_like(weight)[None])[0].detach()
    return min((0.0, 1.0), key=lambda offset: float((own - weight - offset).abs().sum()))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        y, inverse = _normalize(x, weight, epsilon, offset)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        g, to_weight = gradients[0], None
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(g, x, inverse).flatten(0, -2).sum(0).to(weight.dtype)
        return _input_gradient(g, x, weight, inverse, ctx.offset), to_weight, None, None


@compile_on_cuda
def _normalize(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    """(y, 1 / rms of each token [… , 1])."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return wide.mul_(inverse).mul_(weight + offset).to(x.dtype), inverse


@compile_on_cuda
def _weight_gradient(g: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """What each token adds to the gradient of the weight."""
    return (x.to(inverse.dtype) * inverse).mul_(g)


@compile_on_cuda
def _input_gradient(g: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float) -> Tensor:
    """The gradient of x."""
    wide, g = x.to(inverse.dtype), g.to(inverse.dtype, copy=True)
    g.mul_(weight + offset)
    along = (g * wide).sum(-1, keepdim=True).mul_(inverse**3 / -x.shape[-1])
    return g.mul_(inverse).addcmul_(wide, along).to(x.dtype)
