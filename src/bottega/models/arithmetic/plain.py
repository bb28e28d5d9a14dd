"""What the kernels compute with, as operations of torch: on any device, and the reference for what is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bottega.models.compile import compile_on_cuda
from bottega.models.fast_dropout import DropoutDraw, apply_keep_mask, make_keep_mask

# (x → act(x); (gradient of the output, x) → gradient of x)
Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]

# In the order of the numbers that `native/pointwise.h` has for them.
ACTIVATIONS: dict[str, Activation] = {
    "silu": (torch.ops.aten.silu, torch.ops.aten.silu_backward),
    "gelu": (torch.ops.aten.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: torch.ops.aten.gelu(x, approximate="tanh"),
        lambda g, x: torch.ops.aten.gelu_backward(g, x, approximate="tanh"),
    ),
}

# Bytes of float32 logits that a CPU normalizes at once: enough work for all cores, little enough for their caches.
SOFTMAX_BLOCK_BYTES = 1 << 21

# Below this, log(p) of a float32 probability p is wrong or −inf: the logarithm is then taken from the logits.
MIN_LOGP = -80.0


class LogitOptions(NamedTuple):
    """How raw logits become log-probabilities: of softcap · tanh(scale · raw / softcap).

    smoothing  the fraction of a log-probability that is the mean over all labels (Szegedy et al. 2015, 1512.00567)
    """

    scale: float = 1.0
    softcap: float | None = None
    smoothing: float = 0.0


class LinearLayers(NamedTuple):
    """Layers of one input, each with its weight [out, in]; all have an adapter A [r, in], B [out, r], or none has.

    biases  of all, or empty
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    a: Sequence[Tensor]
    b: Sequence[Tensor]
    scales: Sequence[float]


class LinearNeeds(NamedTuple):
    """Which gradients of linear layers are needed."""

    x: bool
    weights: bool
    adapters: bool


class LinearGradients(NamedTuple):
    """Gradients of the input, of weights, of all A together [Σr, in] and of each B; what is not needed is missing."""

    x: Tensor | None
    weights: Sequence[Tensor]
    a: Tensor | None
    b: Sequence[Tensor]


class Arithmetic:
    """Products, and what lies between them, with gradients. Autograd differentiates none of it."""

    def multiply(
        self, terms: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """[M, K], [K, N] of each term → [M, N]: the sum of their products and of the bias [N], into `out` if given."""
        (a, b), *others = terms
        total = torch.mm(a, b, out=out) if bias is None else torch.addmm(bias, a, b, out=out)
        for a, b in others:
            total.addmm_(a, b)
        return total

    def linear_layers(self, x: Tensor, layers: LinearLayers) -> tuple[list[Tensor], Tensor | None] | None:
        """x [T, in] → ([T, out] of each layer, u = scale · x Aᵀ [T, Σr]); None if `multiply` computes it as fast."""
        return None

    def linear_layers_backward(
        self, gradients: Sequence[Tensor], x: Tensor, u: Tensor | None, layers: LinearLayers, needs: LinearNeeds
    ) -> LinearGradients | None:
        """What they got in the backward, from the gradients of the outputs; None if `multiply` computes it as fast."""
        return None

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        """[… , H] → x / rms(x) · (weight + offset) over the last dimension."""
        return F.rms_norm(x, x.shape[-1:], weight + offset if offset else weight, epsilon)

    def normalize(
        self, x: Tensor, weight: Tensor, epsilon: float, offset: float, second: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(`rms_norm` of the sum of x and `second`, [… , 1] with 1 / rms of it in float32 or wider, that sum)."""
        total = x if second is None else x + second
        return (*_normalize(total, weight, epsilon, offset), total)

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
        """Gradients of (x, weight), the second if it is needed; `other`: the gradient of x by what else reads it."""
        d_weight = _weight_gradient(d_y, x, inverse).flatten(0, -2).sum(0).to(weight.dtype) if needs_weight else None
        d_x = _input_gradient(d_y, x, weight, inverse, offset)
        return d_x if other is None else d_x + other, d_weight

    def add_and_normalize(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, draw: DropoutDraw
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[T, H] → (the layer norm of dropout(x) + residual, that sum, its mean and 1 / deviation [T, 1])."""
        total = _drop(x, draw) + residual
        y, mean, inverse = torch.native_layer_norm(total, x.shape[-1:], weight, bias, epsilon)
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
        """Gradients of (x, residual, weight, bias), the last two if they are needed."""
        d_total, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
            d_y, total, total.shape[-1:], mean, inverse, weight, bias, [True, needs_weight, needs_weight]
        )
        return _drop(d_total, draw), d_total, d_weight, d_bias

    def activate(self, x: Tensor, activation: str) -> Tensor:
        """[T, I] → activation(x)."""
        return ACTIVATIONS[activation][0](x)

    def activate_with_slope(self, x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
        """[T, I] → (activation(x), its derivative there)."""
        activate, gradient = ACTIVATIONS[activation]
        return activate(x), gradient(torch.ones_like(x), x)

    def rotate(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x [T, h, D], angles [T, 1, D] → (x₁ c − x₂ s, x₂ c + x₁ s) of the halves of each head."""
        return _rotate(x, cosine, sine)

    def rotate_backward(self, d_y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """The gradient of x: the transposed of the rotation."""
        return _rotate_backward(d_y, cosine, sine)

    def gated_product(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """[T, I], [T, I] → activation(gate) · up."""
        return _gated_product(gate, up, activation)

    def gated_product_backward(
        self, d_product: Tensor, gate: Tensor, up: Tensor, activation: str
    ) -> tuple[Tensor, Tensor]:
        """Gradients of (gate, up); that of the product may be overwritten."""
        return _gated_product_backward(d_product, gate, up, activation)

    def log_probabilities(self, raw: Tensor, label: Tensor, options: LogitOptions, *, with_gradient: bool) -> Tensor:
        """[n, V], [n] → [n] in float32 or wider; `with_gradient` overwrites `raw` with their gradients to it."""
        if raw.is_cuda:
            index = label[:, None]
            # Gathered outside the compiled kernel, which has been seen to read `raw` after it had overwritten it.
            return _log_probabilities_on_cuda(raw, index, raw.gather(1, index), *options, with_gradient)
        size = max(1, SOFTMAX_BLOCK_BYTES // (4 * raw.shape[1]))
        scores = []
        for start in range(0, len(raw), size):
            rows = slice(start, start + size)
            index, logits = label[rows, None], scale_and_cap(raw[rows], options.scale, options.softcap)
            p = logits.softmax(1)
            p_label = p.gather(1, index)  # [n, 1]
            logp = p_label.log()
            if bool((logp < MIN_LOGP).any()):
                logp = torch.where(logp < MIN_LOGP, logits.gather(1, index) - logits.logsumexp(1, keepdim=True), logp)
            smoothing = options.smoothing
            if smoothing:
                scores.append(logp + smoothing * (logits.mean(1, keepdim=True) - logits.gather(1, index)))
            else:
                scores.append(logp)
            if with_gradient:
                # (1 − smoothing) · onehot + smoothing / V − p, in the memory of p
                gradient = p.neg_().scatter_(1, index, 1 - smoothing - p_label)
                if smoothing:
                    gradient.add_(smoothing / gradient.shape[1])
                if options.scale != 1.0:
                    gradient.mul_(options.scale)
                if options.softcap is not None:
                    gradient.mul_(1 - (logits / options.softcap) ** 2)
                raw[rows] = gradient
        return torch.cat(scores).squeeze(1)


PLAIN = Arithmetic()


def _drop(x: Tensor, draw: DropoutDraw) -> Tensor:
    if not draw.dropped:
        return x
    return apply_keep_mask(x, make_keep_mask(draw.seed, x.shape, draw.dropped, x.device), draw.dropped)


@compile_on_cuda
def _normalize(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    # A copy also where the dtype is the same: the product is computed in its memory.
    wide = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return wide.mul_(inverse).mul_(weight + offset).to(x.dtype), inverse


@compile_on_cuda
def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cosine
    out[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sine[..., half:])
    return out


@compile_on_cuda
def _rotate_backward(d_y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    # Each half takes the sine that multiplied it in the forward.
    half = d_y.shape[-1] // 2
    d_x = d_y * cosine
    d_x[..., :half].addcmul_(d_y[..., half:], sine[..., half:])
    d_x[..., half:].addcmul_(d_y[..., :half], sine[..., :half], value=-1)
    return d_x


@compile_on_cuda
def _gated_product(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation][0](gate).mul_(up)


@compile_on_cuda
def _gated_product_backward(d_product: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    activate, activation_backward = ACTIVATIONS[activation]
    d_up = activate(gate).mul_(d_product)
    return activation_backward(d_product * up, gate), d_up


@compile_on_cuda
def _weight_gradient(d_y: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """[…, H]: the summand of each token in the gradient of the weight."""
    return (x.to(inverse.dtype) * inverse).mul_(d_y)


@compile_on_cuda
def _input_gradient(d_y: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float) -> Tensor:
    """∂x = r · g − x · r³ · mean(g · x) with g = ∂y · (weight + offset)."""
    wide, g = x.to(inverse.dtype), d_y.to(inverse.dtype, copy=True)
    g.mul_(weight + offset)
    along_x = (g * wide).sum(-1, keepdim=True).mul_(inverse**3 / -x.shape[-1])  # [… , 1]
    return g.mul_(inverse).addcmul_(wide, along_x).to(x.dtype)


@compile_on_cuda
def _log_probabilities_on_cuda(
    raw: Tensor,
    index: Tensor,
    chosen: Tensor,
    scale: float,
    softcap: float | None,
    smoothing: float,
    with_gradient: bool,
) -> Tensor:
    """The same in two passes over the logits, without branching on values; index, chosen [n, 1]: raw's labels."""
    logits = scale_and_cap(raw, scale, softcap)
    log_sum_exp = logits.logsumexp(1, keepdim=True)
    logp = scale_and_cap(chosen, scale, softcap) - log_sum_exp
    if smoothing:
        logp = (1 - smoothing) * logp + smoothing * (logits.mean(1, keepdim=True) - log_sum_exp)
    if with_gradient:
        # A comparison instead of a scatter, so that it compiles into the same pass.
        is_label = torch.arange(raw.shape[1], device=raw.device) == index  # [n, V]
        gradient = is_label * (1 - smoothing) + smoothing / raw.shape[1]
        gradient = (gradient - (logits - log_sum_exp).exp()) * scale
        if softcap is not None:
            gradient = gradient * (1 - (logits / softcap) ** 2)
        raw.copy_(gradient)
    return logp.squeeze(1)


def scale_and_cap(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Logits in float32 or wider from the raw ones of a product."""
    logits = raw.to(torch.promote_types(raw.dtype, torch.float32))
    logits = logits * scale if scale != 1.0 else logits
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
