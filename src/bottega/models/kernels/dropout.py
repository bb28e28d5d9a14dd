"""Dropout modules computed by `models.fast_dropout`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.fast_dropout import dropout


def matches(module: nn.Module) -> bool:
    """Whether this is nn.Dropout itself: subclasses may drop something else."""
    return type(module) is nn.Dropout


def sample_call(module: nn.Module, length: int) -> tuple[Tensor, dict[str, Any]]:
    """An input; no keyword arguments."""
    return torch.randn(1, length, 6), {}


def fused_forward(module: nn.Module, arithmetic: Arithmetic = PLAIN) -> Callable[[Tensor], Tensor]:
    """Dropout in training mode, the identity in evaluation mode."""
    return partial(_forward, module)


def _forward(module: nn.Module, x: Tensor) -> Tensor:
    return dropout(x, cast(float, module.p)) if module.training else x
