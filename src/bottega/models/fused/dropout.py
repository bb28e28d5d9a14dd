"""Dropout whose mask is drawn sixteen bits a number, four numbers at a time.

PyTorch's own draws a float64 for each number, on one thread of a CPU: a quarter of the time of a small encoder's step.
Probabilities are rounded to a 65,536th; what is kept is scaled by exactly what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16


def fits(module: nn.Module) -> bool:
    """Whether this is plain dropout."""
    return type(module) is nn.Dropout


def width(module: nn.Module) -> int:
    """Any will do."""
    return 6


def fused(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Its forward, which asks each time whether the module is training."""
    return partial(_forward, module)


def _forward(module: nn.Module, x: Tensor) -> Tensor:
    return dropout(x, cast(float, module.p)) if module.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """x with a share `p` of its numbers set to 0, and the rest scaled to keep the mean."""
    dropped = round(p * LEVELS)
    if not 0 < dropped < LEVELS or x.device.type != "cpu":
        return F.dropout(x, p)
    apply = cast(Any, _Dropout.apply)
    return cast(Tensor, apply(x, dropped))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
        # Both ends are drawn too, so that every pattern of 64 bits is as likely as any other.
        bits.random_(-(1 << 63), None)
        kept = (bits.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2).view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        return (gradients[0] * kept).mul_(ctx.scale), None
