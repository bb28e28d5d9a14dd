"""Dropout with a cheap mask on CPUs: sixteen random bits per number, applied with a bitwise and.

PyTorch's own draws a float64 per number on one thread of a CPU: a quarter of a small encoder's training step. Here the
probability is rounded to a multiple of 1/65,536, and the kept numbers are scaled by what that rounded value leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16

# By the bytes of a float, the integer type of the same width.
INT_OF_WIDTH = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def dropout(x: Tensor, p: float) -> Tensor:
    """x with each number set to 0 with probability `p`, and the rest scaled to keep the mean."""
    dropped = dropped_levels(p)
    # On CUDA PyTorch's own is a fused kernel.
    if not 0 < dropped < LEVELS or x.device.type != "cpu":
        return F.dropout(x, p)
    apply = cast(Any, _Dropout.apply)
    return cast(Tensor, apply(x, dropped))


def dropped_levels(p: float) -> int:
    """`p` as a number of `LEVELS`."""
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


class DropoutDraw(NamedTuple):
    """One use of dropout: the seed of its mask, and how many of `LEVELS` numbers it drops on average."""

    seed: int
    dropped: int


def draw_dropout(p: float) -> DropoutDraw:
    """A new use of dropout; where nothing is dropped, torch's generator stays where it is."""
    dropped = dropped_levels(p)
    return DropoutDraw(draw_seed() if dropped else 0, dropped)


def draw_seed() -> int:
    """A seed from torch's global generator, which is all that dropout takes from it."""
    return int(torch.randint(1 << 62, ()))


def make_keep_mask(seed: int, shape: torch.Size, dropped: int, device: torch.device) -> Tensor:
    """The mask of a seed, int16: all bits set where a number is kept, 0 where it is dropped."""
    size = shape.numel()
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(seed)
        # Signed, as torch has no arithmetic on uint16.
        signed = torch.empty(shape, dtype=torch.int16, device=device)
        return signed.random_(-LEVELS // 2, LEVELS // 2, generator=generator).ge_(dropped - LEVELS // 2).neg_()
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-size // 4)).view(np.int16))[:size]
    # 1 where a signed number is not among the `dropped` smallest; negated, that is −1: all bits set.
    return bits.ge_(dropped - LEVELS // 2).neg_().view(shape)


def apply_keep_mask(x: Tensor, kept: Tensor, dropped: int) -> Tensor:
    """x where the mask keeps it, scaled to keep the mean; 0 elsewhere."""
    # A bitwise and also clears NaN and infinity, which a product with 0 would not.
    integer = INT_OF_WIDTH[x.element_size()]
    # The conversion extends the sign, so −1 stays all bits set in any width.
    return (x.view(integer) & kept.to(integer)).view(x.dtype).mul_(LEVELS / (LEVELS - dropped))
