"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) that keeps x and one number per token for its backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.plain import PLAIN, Arithmetic


def matches(module: nn.Module) -> bool:
    """Whether this looks like an RMSNorm: one vector of weights, and an epsilon."""
    parameters = dict(module.named_parameters())
    return set(parameters) == {"weight"} and parameters["weight"].dim() == 1 and _epsilon(module) is not None


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """An input; no keyword arguments."""
    return torch.randn(1, length, len(cast(Tensor, module.weight))), {}


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[..., Tensor]:
    """x → x / rms(x) · (weight + offset) over the last dimension; the module's own if called with more than x."""
    return partial(_forward, module, *settings(module), arithmetic)


def settings(module: nn.Module) -> tuple[float, float]:
    """(epsilon, offset) of a norm that `matches`."""
    return cast(float, _epsilon(module)), _offset(module)


def _forward(
    module: nn.Module,
    epsilon: float,
    offset: float,
    arithmetic: Arithmetic,
    x: Tensor,
    *arguments: Any,
    **keywords: Any,
) -> Tensor:
    if arguments or keywords:  # a gate, as in Mamba's norms
        return cast(Tensor, type(module).forward(module, x, *arguments, **keywords))
    weight = cast(Tensor, module.weight)
    if not torch.is_grad_enabled():
        return arithmetic.rms_norm(x, weight, epsilon, offset)
    apply = cast(Any, _RmsNorm.apply)
    return cast(Tensor, apply(x, weight, epsilon, offset, arithmetic))


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


def normalize_sum(
    x: Tensor, second: Tensor | None, weight: Tensor, epsilon: float, offset: float, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """(x + second, the norm of that): one function, as in the backward both gradients are one sum."""
    apply = cast(Any, _NormOfSum.apply)
    return cast(tuple[Tensor, Tensor], apply(x, second, weight, epsilon, offset, arithmetic))


class _NormOfSum(torch.autograd.Function):
    """(x, y) with y = x · r · (weight + offset), r = 1 / sqrt(mean(x²) + epsilon) per token, of the sum x of two."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        second: Tensor | None,
        weight: Tensor,
        epsilon: float,
        offset: float,
        arithmetic: Arithmetic,
    ) -> tuple[Tensor, Tensor]:
        y, inverse, total = arithmetic.normalize(x, weight, epsilon, offset, second)
        ctx.save_for_backward(total, weight, inverse)
        ctx.offset, ctx.arithmetic, ctx.has_second = offset, arithmetic, second is not None
        return total, y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_total, d_y = gradients
        d_x, d_weight = ctx.arithmetic.normalize_backward(
            d_y, *ctx.saved_tensors, ctx.offset, ctx.needs_input_grad[2], d_total
        )
        return d_x, d_x if ctx.has_second else None, d_weight, None, None, None


class _RmsNorm(torch.autograd.Function):
    """y = x · r · (weight + offset) with r = 1 / sqrt(mean(x²) + epsilon) per token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, offset: float, arithmetic: Arithmetic) -> Tensor:
        y, inverse, _ = arithmetic.normalize(x, weight, epsilon, offset)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset, ctx.arithmetic = offset, arithmetic
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradients_of = ctx.arithmetic.normalize_backward
        d_x, d_weight = gradients_of(gradients[0], *ctx.saved_tensors, ctx.offset, ctx.needs_input_grad[1])
        return d_x, d_weight, None, None, None
