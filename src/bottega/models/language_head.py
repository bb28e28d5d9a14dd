"""The language-model head: from hidden states to logits and log-probabilities, only at the positions a batch reads.

It never holds [N, V] logits: it works in chunks of predictions. While the head is frozen its backward costs nothing, as
the gradient of each log-probability to its hidden state is one [H] vector, known in the forward. A chunk is as large as
its matmul needs to be fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bottega.errors import ModelError
from bottega.models.arithmetic.native import arithmetic_of
from bottega.models.arithmetic.plain import PLAIN, Arithmetic, LogitOptions, scale_and_cap

# Bytes of logits alive at once, in the model's dtype.
CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 29}

# The same while the head itself is trained. Larger, as every chunk adds a [V, H] product to the weight's gradient: one
# more pass over all of it.
TRAINED_CHUNK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}


@dataclass(frozen=True)
class LanguageHead:
    """logits = softcap(scale · (hidden @ weightᵀ + bias)); weight [V, H].

    smoothing   of labels, see `LogitOptions`
    arithmetic  what computes the softmax
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    smoothing: float = 0.0
    arithmetic: Arithmetic = PLAIN

    @property
    def options(self) -> LogitOptions:
        return LogitOptions(self.scale, self.softcap, self.smoothing)

    def with_temperature(self, temperature: float) -> LanguageHead:
        """The head whose logits are these divided by `temperature`."""
        if temperature == 1.0:
            return self
        softcap = None if self.softcap is None else self.softcap / temperature
        return replace(self, scale=self.scale / temperature, softcap=softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] → [n, V] in float32 or wider."""
        raw = nn.functional.linear(hidden, self.weight, self.bias)
        return scale_and_cap(raw, self.scale, self.softcap)

    def logp_in_place(self, raw: Tensor, label: Tensor, *, with_gradient: bool) -> Tensor:
        """[n, V] raw logits, [n] → [n]; `with_gradient` overwrites `raw` with the gradients of these to it."""
        return self.arithmetic.log_probabilities(raw, label, self.options, with_gradient=with_gradient)

    def logp(self, hidden: Tensor, label: Tensor, expected_gradient: Tensor | None = None) -> Tensor:
        """[N, H], [N] → [N] log-probability of each label, float32 or wider.

        expected_gradient  [N], the gradient the result will get, up to a common factor. If it is right, a trained head
                           computes its gradients in the forward, while the logits exist; if it is wrong or None, the
                           backward computes the logits again.
        """
        apply = cast(Any, _LogProbability.apply)
        settings = (*self.options, self.arithmetic)
        return cast(Tensor, apply(hidden, self.weight, self.bias, label, settings, expected_gradient))

    @torch.no_grad()
    def logp_and_best(self, hidden: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H], [N] → ([N] log-probability of each label, [N] the likeliest label), without gradient."""
        logp, best = _empty_scores(hidden), torch.empty_like(label)
        for rows, raw in _logit_chunks(self, hidden, CHUNK_BYTES):
            # Scale and softcap do not change the order of logits.
            best[rows] = raw.argmax(1)
            logp[rows] = self.logp_in_place(raw, label[rows], with_gradient=False)
        return logp, best


def kl_divergence(policy: LanguageHead, states: Tensor, base: LanguageHead, base_states: Tensor) -> Tensor:
    """[N, H], [N, H] → [N] KL(base ‖ policy) over the vocabulary, of the hidden states that each head reads."""
    # Checkpointed in chunks: the backward computes their logits again, and [N, V] is never held.
    size = max(1, CHUNK_BYTES[states.device.type] // (4 * len(policy.weight)))
    chunks = zip(torch.split(states, size), torch.split(base_states, size), strict=True)
    divergences = [
        checkpoint(_chunk_kl, policy, chunk, base, base_chunk, use_reentrant=False) for chunk, base_chunk in chunks
    ]
    return torch.cat(divergences) if divergences else _empty_scores(states)


def _chunk_kl(policy: LanguageHead, states: Tensor, base: LanguageHead, base_states: Tensor) -> Tensor:
    with torch.no_grad():
        base_logp = base.logits(base_states).log_softmax(1)  # [n, V]
    return (base_logp.exp() * (base_logp - policy.logits(states).log_softmax(1))).sum(1)


def get_language_head(model: nn.Module) -> LanguageHead:
    """The head of a transformers language model; a ModelError if it has none."""
    linear = cast(Any, model).get_output_embeddings()
    if linear is None:
        raise ModelError(f"{type(model).__name__} has no language-model head")
    # What a model's own forward does beside the matmul: Granite divides logits by `logits_scaling`, Cohere multiplies
    # by `logit_scale`, Gemma-2 caps them, T5 divides by the root of its width, BART and Marian add a constant.
    config = cast(Any, model).config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    # UMT5 scales like T5, but its config has no `scale_decoder_outputs`.
    if getattr(config, "scale_decoder_outputs", config.model_type == "umt5" and config.tie_word_embeddings):
        scale *= config.d_model**-0.5
    logits_bias = getattr(model, "final_logits_bias", None)
    bias = linear.bias if logits_bias is None else logits_bias[0].to(linear.weight.dtype)
    softcap = getattr(config, "final_logit_softcapping", None)
    return LanguageHead(linear.weight, bias, scale, softcap, arithmetic=arithmetic_of(model))


class _LogProbability(torch.autograd.Function):
    """log softmax(logits)[label] in chunks; the logits are never kept for the backward.

    With z = logits and p = softmax(z): ∂logp/∂z = onehot(label) − p, unless labels are smoothed. While the head is
    frozen, that row times the weight, [H] per prediction, is all the backward needs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        label: Tensor,
        settings: tuple[float, float | None, float, Arithmetic],
        expected: Tensor | None,
    ) -> Tensor:
        head = LanguageHead(weight, bias, *settings)
        ctx.settings, ctx.computed = settings, None
        ctx.trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        if ctx.trained:
            expected = None if expected is None else expected.to(_at_least_float32(hidden.dtype))
            ctx.save_for_backward(hidden, weight, bias, label, expected)
            if expected is not None:
                logp, ctx.computed = _logp_with_gradients(head, hidden, label, expected)
                return logp
        # [N, H]: ∂logp[n]/∂hidden[n], needed in the backward of a frozen head.
        jacobian = hidden.new_empty(hidden.shape) if ctx.needs_input_grad[0] and not ctx.trained else None
        logp = _empty_scores(hidden)
        for rows, raw in _logit_chunks(head, hidden, CHUNK_BYTES):
            logp[rows] = head.logp_in_place(raw, label[rows], with_gradient=jacobian is not None)
            if jacobian is not None:
                # `raw` now holds the gradient to the logits, in place.
                head.arithmetic.multiply([(raw, weight)], out=jacobian[rows])
        if jacobian is not None:
            ctx.save_for_backward(jacobian)
        return logp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if not ctx.trained:
            (jacobian,) = ctx.saved_tensors
            return (gradient.to(jacobian.dtype)[:, None] * jacobian, *[None] * 5)
        hidden, weight, bias, label, expected = ctx.saved_tensors
        # Taken off the context, so that the [V, H] gradient can be freed as soon as it is used.
        computed, ctx.computed = ctx.computed, None
        factor = None if computed is None else _common_factor(gradient, expected)
        if factor is None:
            _, computed = _logp_with_gradients(LanguageHead(weight, bias, *ctx.settings), hidden, label, gradient)
            factor = torch.ones_like(gradient[:1]).squeeze(0)
        d_hidden, d_weight, d_bias, scale = computed
        # In one pass over the weight's gradient, which is as large as the weight.
        d_weight = d_weight.mul_(scale * factor).to(weight.dtype)
        d_bias = None if d_bias is None else (d_bias * (scale * factor)).to(bias.dtype)
        return (d_hidden * factor).to(hidden.dtype), d_weight, d_bias, *[None] * 3


def _logp_with_gradients(
    head: LanguageHead, hidden: Tensor, label: Tensor, gradient: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """(logp, gradients of Σ gradient · logp for hidden, weight and bias, a factor that the last two still lack)."""
    logp, d_hidden = _empty_scores(hidden), hidden.new_empty(hidden.shape)
    d_weight: Tensor | None = None
    d_bias = None if head.bias is None else torch.zeros_like(head.bias, dtype=logp.dtype)
    # Gradients may be tiny (a weight over all tokens of an update), so half precision works on them divided by their
    # magnitude, which is multiplied back last: a power of two, so neither costs precision.
    scale = torch.exp2(torch.floor(torch.log2(gradient.abs().amax().clamp(min=torch.finfo(gradient.dtype).tiny))))
    scaled = gradient / scale  # [N]
    for rows, d_logits in _logit_chunks(head, hidden, TRAINED_CHUNK_BYTES):
        logp[rows] = head.logp_in_place(d_logits, label[rows], with_gradient=True)
        if d_bias is not None:
            d_bias += scaled[rows] @ d_logits.to(scaled.dtype)
        head.arithmetic.multiply([(d_logits, head.weight)], out=d_hidden[rows])
        # The [n] factor goes on the narrow side of the product: [n, H] instead of [n, V].
        narrow = (hidden[rows] * scaled[rows, None]).to(hidden.dtype)
        product = head.arithmetic.multiply([(d_logits.T, narrow)])  # [V, H]
        d_weight = product if d_weight is None else d_weight.to(logp.dtype).add_(product)
    assert d_weight is not None
    return logp, (d_hidden * gradient[:, None], d_weight, d_bias, scale)


def _common_factor(gradient: Tensor, expected: Tensor) -> Tensor | None:
    """The number f with gradient = f · expected; None if there is none."""
    factor = (gradient @ expected) / (expected @ expected)  # least squares
    is_proportional = (gradient - factor * expected).abs().max() <= 1e-6 * gradient.abs().max()
    return factor if is_proportional else None


def _empty_scores(hidden: Tensor) -> Tensor:
    """[N] uninitialized, float32 or wider."""
    return hidden.new_empty(len(hidden), dtype=_at_least_float32(hidden.dtype))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _logit_chunks(head: LanguageHead, hidden: Tensor, max_bytes: Mapping[str, int]) -> Iterator[tuple[slice, Tensor]]:
    """(slice of predictions, their raw logits [n, V]) with at most `max_bytes` of the device at once.

    Each chunk overwrites the one before: what is needed of it must be used before the next is drawn.
    """
    size = max(1, min(len(hidden), max_bytes[hidden.device.type] // (len(head.weight) * hidden.element_size())))
    buffer = hidden.new_empty(size, len(head.weight))
    for start in range(0, len(hidden), size):
        chunk = hidden[start : start + size]
        raw = head.arithmetic.multiply([(chunk, head.weight.T)], head.bias, out=buffer[: len(chunk)])
        yield slice(start, start + len(chunk)), raw
