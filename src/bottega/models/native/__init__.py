"""Operators in C++ for a CPU.

For models that are used: products that read a packed weight once, the attention of rows to their KV caches, and all
layers in one call. For training, with gradients: large products, attention in prefix trees, what lies between products,
and AdamW (`models.arithmetic`, `attention.trees`, `engine.adamw`).

They are optional: `hardware.native_library` compiles them for the processor at hand, and where they are missing torch
computes the same, but for rounding. A run stores whether it uses them (`Fit.native`): resumed, it computes what it
would have, whether or not they were built in between.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from bottega.hardware.native_library import is_built, library_path

# Set to 0, it keeps them from being used.
SWITCH = "BOTTEGA_NATIVE"

# Attribute of networks that may be computed by them.
MARK = "may_compute_natively"

# Numbers that they compute at once: widths must be multiples.
LANES = 16

DTYPES = frozenset({torch.bfloat16, torch.float32})


def operators() -> Any | None:
    """The operators, `torch.ops.bottega`; None where they are not built, or switched off."""
    return None if os.environ.get(SWITCH) == "0" else _load()


def mark(network: Any) -> None:
    """Let a network be computed by the operators where no gradient is wanted."""
    setattr(network, MARK, True)


def is_marked(network: Any) -> bool:
    """Whether a network may be computed by the operators, and they are there."""
    return getattr(network, MARK, False) and operators() is not None


def fits(*tensors: Tensor) -> bool:
    """Whether these have one dtype, a device and widths that the operators compute, and no gradient is wanted."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    dtype = tensors[0].dtype
    return dtype in DTYPES and not any(x.dtype != dtype or not x.is_cpu or x.shape[-1] % LANES for x in tensors)


@cache
def _load() -> Any | None:
    path = library_path()
    if path is None or not is_built():
        return None
    try:
        cast(Any, torch.ops).load_library(path)
    except OSError as error:
        warnings.warn(f"the operators in C++ are damaged and not used: {error}; bottega build-native", stacklevel=3)
        return None
    return torch.ops.bottega
