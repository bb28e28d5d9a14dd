"""What the kernels compute with, in two forms with the same interface.

    plain   operations of torch, on any device: the reference; on CUDA chains of them are compiled
    native  operators in C++ on a CPU: one pass over memory where torch makes many, and products by the tiles of AMX

Which of them a run uses is stored in it (`Fit.native`), so that a resumed run computes what it computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class LogitOptions(NamedTuple):
    """How raw logits become log-probabilities: of softcap · tanh(scale · raw / softcap).

    smoothing  the fraction of a log-probability that is the mean over all labels (Szegedy et al. 2015, 1512.00567)
    """

    scale: float = 1.0
    softcap: float | None = None
    smoothing: float = 0.0


class Arithmetic(Protocol):
    """The functions of `plain` and `native`. None is differentiated by autograd."""

    def multiply(self, terms: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None = None) -> Tensor:
        """[M, K], [K, N] of each term → [M, N]: the sum of their products and of the bias [N]."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        """[… , H] → x / rms(x) · (weight + offset) over the last dimension."""
        ...

    def normalize(self, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
        """(the same, [… , 1] with 1 / rms(x) in float32 or wider)."""
        ...

    def normalize_backward(
        self, d_y: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float, needs_weight: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of (x, weight), the second if it is needed."""
        ...

    def rotate(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x [T, h, D], angles [T, 1, D] → (x₁ c − x₂ s, x₂ c + x₁ s) of the halves of each head."""
        ...

    def rotate_backward(self, d_y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """The gradient of x: the transposed of the rotation."""
        ...

    def gated_product(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """[T, I], [T, I] → activation(gate) · up."""
        ...

    def gated_product_backward(
        self, d_product: Tensor, gate: Tensor, up: Tensor, activation: str
    ) -> tuple[Tensor, Tensor]:
        """Gradients of (gate, up); that of the product may be overwritten."""
        ...

    def log_probabilities(self, raw: Tensor, label: Tensor, options: LogitOptions, *, with_gradient: bool) -> Tensor:
        """[n, V], [n] → [n] in float32 or wider; `with_gradient` overwrites `raw` with their gradients to it."""
        ...
