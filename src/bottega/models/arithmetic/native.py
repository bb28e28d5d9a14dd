"""Arithmetic in C++ on a CPU (`native/pointwise.h`, `native/matrix_product.h`).

What does not fit the operators is computed by torch. Whether a run uses them is stored in it (`Fit.native`), so that a
resumed run computes what it computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from bottega.models.arithmetic.plain import (
    ACTIVATIONS,
    PLAIN,
    Arithmetic,
    LinearGradients,
    LinearLayers,
    LinearNeeds,
    LogitOptions,
)
from bottega.models.fast_dropout import DropoutDraw
from bottega.models.native import fits, is_marked


def arithmetic_of(network: Any) -> Arithmetic:
    """What a network computes with: operators in C++, if it may and they are there."""
    return NATIVE if is_marked(network) else PLAIN


class NativeArithmetic(Arithmetic):
    """One pass over memory where torch makes many, and products by the tiles of AMX.

    has_tiles  the processor has them
    """

    @cached_property
    def has_tiles(self) -> bool:
        return bool(torch.ops.bottega.has_tiles())

    def multiply(
        self, terms: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        left, right = zip(*terms, strict=True)
        if not self._multiplies(*left, *right):
            return super().multiply(terms, bias, out=out)
        out = left[0].new_empty(len(left[0]), right[0].shape[1]) if out is None else out
        torch.ops.bottega.multiply_into(out, left, right, bias)
        return out

    def linear_layers(self, x: Tensor, layers: LinearLayers) -> tuple[list[Tensor], Tensor | None] | None:
        if not self._multiplies(x, *chain.from_iterable(layers[:4])):
            return None
        outputs, u = torch.ops.bottega.linear_layers(x, *layers)
        return outputs, u if layers.a else None

    def linear_layers_backward(
        self, gradients: Sequence[Tensor], x: Tensor, u: Tensor | None, layers: LinearLayers, needs: LinearNeeds
    ) -> LinearGradients | None:
        if not self._multiplies(x, *gradients, *chain.from_iterable(layers[:4])):
            return None
        weights, _, a, b, scales = layers
        d_x, d_weights, d_a, d_b = torch.ops.bottega.linear_layers_backward(
            gradients, x, u, weights, a, b, scales, *needs
        )
        return LinearGradients(d_x if needs.x else None, d_weights, d_a if d_b else None, [one.T for one in d_b])

    def _multiplies(self, *tensors: Tensor) -> bool:
        """Whether tiles multiply these. Without them, torch's own products reach what the processor can do."""
        if not self.has_tiles or torch.is_grad_enabled():
            return False
        return all(x.dtype == torch.bfloat16 and x.is_cpu and x.numel() for x in tensors)

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        if not fits(x, weight):
            return super().rms_norm(x, weight, epsilon, offset)
        y: Tensor = torch.ops.bottega.rms_norm(x, weight, epsilon, offset)
        return y

    def normalize(
        self, x: Tensor, weight: Tensor, epsilon: float, offset: float, second: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not fits(x, weight, x if second is None else second):
            return super().normalize(x, weight, epsilon, offset, second)
        y, inverse, total = torch.ops.bottega.normalize(x, second, weight, epsilon, offset)
        return y, inverse.view(*x.shape[:-1], 1), total if second is not None else x

    def normalize_backward(
        self,
        d_y: Tensor,
        x: Tensor,
        weight: Tensor,
        inverse: Tensor,
        offset: float,
        needs_weight: bool,
        other: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        if not fits(d_y, x, weight, x if other is None else other):
            return super().normalize_backward(d_y, x, weight, inverse, offset, needs_weight, other)
        gradients = torch.ops.bottega.normalize_backward(d_y, x, weight, inverse, offset, needs_weight, other)
        return gradients[0], gradients[1] if needs_weight else None

    def add_and_normalize(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, draw: DropoutDraw
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if not fits(x, residual, weight, bias):
            return super().add_and_normalize(x, residual, weight, bias, epsilon, draw)
        y, total, mean, inverse = torch.ops.bottega.add_and_normalize(x, residual, weight, bias, epsilon, *draw)
        return y, total, mean, inverse

    def add_and_normalize_backward(
        self,
        d_y: Tensor,
        total: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        draw: DropoutDraw,
        needs_weight: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        if not fits(d_y, total, weight, bias):
            return super().add_and_normalize_backward(d_y, total, weight, bias, mean, inverse, draw, needs_weight)
        gradients = torch.ops.bottega.add_and_normalize_backward(d_y, total, weight, mean, inverse, *draw, needs_weight)
        d_x, d_residual, d_weight, d_bias = gradients
        return d_x, d_residual, *((d_weight, d_bias) if needs_weight else (None, None))

    def activate(self, x: Tensor, activation: str) -> Tensor:
        if not fits(x):
            return super().activate(x, activation)
        y: Tensor = torch.ops.bottega.activated(x, activation_number(activation))
        return y

    def activate_with_slope(self, x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
        if not fits(x):
            return super().activate_with_slope(x, activation)
        y, slope = torch.ops.bottega.activated_with_slope(x, activation_number(activation))
        return y, slope

    def rotate(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        if not _fits_halves(x, cosine, sine):
            return super().rotate(x, cosine, sine)
        y: Tensor = torch.ops.bottega.rotate(x, cosine, sine, False)
        return y

    def rotate_backward(self, d_y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        if not _fits_halves(d_y, cosine, sine):
            return super().rotate_backward(d_y, cosine, sine)
        d_x: Tensor = torch.ops.bottega.rotate(d_y, cosine, sine, True)
        return d_x

    def gated_product(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        if not fits(gate, up):
            return super().gated_product(gate, up, activation)
        product: Tensor = torch.ops.bottega.gated_product(gate, up, activation_number(activation))
        return product

    def gated_product_backward(
        self, d_product: Tensor, gate: Tensor, up: Tensor, activation: str
    ) -> tuple[Tensor, Tensor]:
        if not fits(d_product, gate, up):
            return super().gated_product_backward(d_product, gate, up, activation)
        d_gate, d_up = torch.ops.bottega.gated_product_backward(d_product, gate, up, activation_number(activation))
        return d_gate, d_up

    def log_probabilities(self, raw: Tensor, label: Tensor, options: LogitOptions, *, with_gradient: bool) -> Tensor:
        # Any width: it is the size of a vocabulary.
        if not fits(raw[:, :0]):
            return super().log_probabilities(raw, label, options, with_gradient=with_gradient)
        scale, softcap, smoothing = options
        logp: Tensor = torch.ops.bottega.log_probabilities(raw, label, scale, softcap or 0.0, smoothing, with_gradient)
        return logp


NATIVE = NativeArithmetic()


def _fits_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> bool:
    has_own_angles = all(angle.shape == (len(x), 1, x.shape[-1]) for angle in (cosine, sine))
    return has_own_angles and fits(x, x[..., : x.shape[-1] // 2], cosine, sine)


def activation_number(name: str) -> int:
    """What the operators call an activation."""
    return list(ACTIVATIONS).index(name)
