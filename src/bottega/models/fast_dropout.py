"""Dropout whose mask is drawn sixteen bits a number, four numbers at a time, and laid on as bits.

PyTorch's own draws a float64 for each number, on one thread of a CPU: a quarter of the time of a small encoder's step.
Probabilities are rounded to a 65,536th; what is kept is scaled by exactly what that leaves.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16
INT_OF_WIDTH = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as wide as a float of so many bytes."""


def dropout(x: Tensor, p: float) -> Tensor:
    """x with a share `p` of its numbers set to 0, and the rest scaled to keep the mean."""
    dropped = dropped_levels(p)
    if not 0 < dropped < LEVELS or x.device.type != "cpu":
        return F.dropout(x, p)
    apply = cast(Any, _Dropout.apply)
    return cast(Tensor, apply(x, dropped))


def dropped_levels(p: float) -> int:
    """How many of `LEVELS` are dropped."""
    return round(p * LEVELS)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        kept = make_keep_mask(draw_seed(), x.shape, dropped, x.device)
        ctx.save_for_backward(kept)
        ctx.dropped = dropped
        return apply_keep_mask(x, kept, dropped)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        return apply_keep_mask(gradients[0], kept, ctx.dropped), None


def draw_seed() -> int:
    """A new one, from torch's generator."""
    return int(torch.randint(1 << 62, ()))


def make_keep_mask(number: int, shape: torch.Size, dropped: int, device: torch.device) -> Tensor:
    """The mask that a seed gives: int16, all ones where a number is kept and 0 where it is not."""
    size = shape.numel()
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(number)
        signed = torch.empty(shape, dtype=torch.int16, device=device)
        return signed.random_(-LEVELS // 2, LEVELS // 2, generator=generator).ge_(dropped - LEVELS // 2).neg_()
    bits = torch.from_numpy(np.random.SFC64(number).random_raw(-(-size // 4)).view(np.int16))[:size]
    # One where a number, which is signed, is not among the `dropped` least; all ones is its negative.
    return bits.ge_(dropped - LEVELS // 2).neg_().view(shape)


def apply_keep_mask(x: Tensor, kept: Tensor, dropped: int) -> Tensor:
    """x where it is kept, scaled to keep the mean."""
    whole = INT_OF_WIDTH[x.element_size()]
    return (x.view(whole) & kept.to(whole)).view(x.dtype).mul_(LEVELS / (LEVELS - dropped))
