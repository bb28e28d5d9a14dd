"""Arithmetic in C++ (`native/pointwise.h`, `native/matrix_product.h`); what does not fit there is computed by `plain`.

Legend as in `bottega.models.arithmetic`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from bottega.models.arithmetic import Arithmetic, LogitOptions, plain
from bottega.models.native import fits, is_marked


def arithmetic_of(network: Any) -> Arithmetic:
    """What a network computes with: this module, if it may, else `plain`."""
    return cast(Arithmetic, sys.modules[__name__]) if is_marked(network) else plain


def multiply(terms: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None = None) -> Tensor:
    # Without tiles, torch's own products reach what the processor can do.
    factors = [factor for term in terms for factor in term]
    if not _has_tiles() or not all(x.dtype == torch.bfloat16 and x.is_cpu and x.numel() for x in factors):
        return plain.multiply(terms, bias)
    total: Tensor = torch.ops.bottega.multiply(factors[::2], factors[1::2], bias)
    return total


@cache
def _has_tiles() -> bool:
    return bool(torch.ops.bottega.has_tiles())


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
    if not fits(x, weight):
        return plain.rms_norm(x, weight, epsilon, offset)
    y: Tensor = torch.ops.bottega.rms_norm(x, weight, epsilon, offset)
    return y


def normalize(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    if not fits(x, weight):
        return plain.normalize(x, weight, epsilon, offset)
    y, inverse = torch.ops.bottega.normalize(x, weight, epsilon, offset)
    return y, inverse.view(*x.shape[:-1], 1)


def normalize_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    if not fits(d_y, x, weight):
        return plain.normalize_backward(d_y, x, weight, inverse, offset, needs_weight)
    d_x, d_weight = torch.ops.bottega.normalize_backward(d_y, x, weight, inverse, offset, needs_weight)
    return d_x, d_weight if needs_weight else None


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    if not _fits_halves(x, cosine, sine):
        return plain.rotate(x, cosine, sine)
    y: Tensor = torch.ops.bottega.rotate(x, cosine, sine, False)
    return y


def rotate_backward(d_y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    if not _fits_halves(d_y, cosine, sine):
        return plain.rotate_backward(d_y, cosine, sine)
    d_x: Tensor = torch.ops.bottega.rotate(d_y, cosine, sine, True)
    return d_x


def _fits_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> bool:
    return fits(x, x[..., : x.shape[-1] // 2], cosine, sine)


def gated_product(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    if not fits(gate, up):
        return plain.gated_product(gate, up, activation)
    product: Tensor = torch.ops.bottega.gated_product(gate, up, activation_number(activation))
    return product


def gated_product_backward(d_product: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    if not fits(d_product, gate, up):
        return plain.gated_product_backward(d_product, gate, up, activation)
    d_gate, d_up = torch.ops.bottega.gated_product_backward(d_product, gate, up, activation_number(activation))
    return d_gate, d_up


def activation_number(name: str) -> int:
    """What the operators call an activation."""
    return list(plain.ACTIVATIONS).index(name)


def log_probabilities(raw: Tensor, label: Tensor, options: LogitOptions, *, with_gradient: bool) -> Tensor:
    # Any width: it is the size of a vocabulary.
    if not fits(raw[:, :0]):
        return plain.log_probabilities(raw, label, options, with_gradient=with_gradient)
    scale, softcap, smoothing = options
    logp: Tensor = torch.ops.bottega.log_probabilities(raw, label, scale, softcap or 0.0, smoothing, with_gradient)
    return logp
