"""From hidden states to scores, only at the places a batch asks for.

`language_head` and `class_head` find a model's own head. `headed` runs whatever stands behind the hidden states of a
model whose head looks at each place alone, and `masked_head` all of that but the vocabulary.

The language-model head never holds [N, V] logits: it works in chunks, and while the head is frozen its backward costs
nothing, because the gradient of each log-probability to its hidden state is one vector a prediction, known in the
forward. A chunk is as large as its matmul needs to be fast; the softmax over it goes block by block, each as small as a
processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bottega.errors import ModelError
from bottega.models.compile import compile_on_cuda

CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 29}
"""Bytes of logits alive at once, in the model's dtype."""

TRAINED_CHUNK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
"""The same while the head itself is trained: what each chunk adds to its gradient is a pass over all of that."""

SOFTMAX_BLOCK_BYTES = 1 << 21
"""Bytes of logits in float32 that a CPU normalises at once: enough for all cores, little enough for their caches."""

MIN_LOGP = -80.0
"""Log-probabilities below it are no longer read off a float32 probability, which has left its range by then."""


@dataclass(frozen=True)
class LanguageHead:
    """logits = softcap(scale · (hidden @ weightᵀ + bias)); weight [V, H].

    smoothing  share of a log-probability that is the mean of those of all labels (Szegedy et al. 2015, arXiv
               1512.00567)
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    smoothing: float = 0.0

    def tempered(self, temperature: float) -> LanguageHead:
        """The head whose logits are these by `temperature`."""
        if temperature == 1.0:
            return self
        softcap = None if self.softcap is None else self.softcap / temperature
        return replace(self, scale=self.scale / temperature, softcap=softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] → [n, V] in float32 or wider."""
        return scale_and_cap(nn.functional.linear(hidden, self.weight, self.bias), self.scale, self.softcap)

    def logp(self, hidden: Tensor, label: Tensor, share: Tensor | None = None) -> Tensor:
        """[N, H], [N] → [N] log-probability of each label, float32 or wider.

        share  [N], a guess at their gradient, up to a factor: where it is right, the gradients of a trained head are
               taken while its logits are at hand; where it is wrong or missing, they are computed a second time
        """
        apply = cast(Any, _LogProbability.apply)
        return cast(
            Tensor, apply(hidden, self.weight, self.bias, label, (self.scale, self.softcap, self.smoothing), share)
        )

    @torch.no_grad()
    def judged(self, hidden: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H], [N] → [N] log-probability of each label, and [N] the label that is likeliest instead."""
        logp, best = _empty_scores(hidden), torch.empty_like(label)
        for rows, raw in _logit_chunks(self, hidden, CHUNK_BYTES):
            # Scale and softcap leave the order as it is.
            best[rows] = raw.argmax(1)
            logp[rows] = _chunk_logp(self, raw, label[rows], slope=False)
        return logp, best


def kl_divergence(policy: LanguageHead, states: Tensor, base: LanguageHead, before: Tensor) -> Tensor:
    """[N, H], [N, H] → [N] KL(base ‖ policy) over the vocabulary, of the states their heads read.

    In chunks, whose logits the backward computes again: none of [N, V] is ever held.
    """
    size = max(1, CHUNK_BYTES[states.device.type] // (4 * len(policy.weight)))
    parts = zip(torch.split(states, size), torch.split(before, size), strict=True)
    found = [checkpoint(_chunk_kl, policy, one, base, other, use_reentrant=False) for one, other in parts]
    return torch.cat(found) if found else _empty_scores(states)


def _chunk_kl(policy: LanguageHead, states: Tensor, base: LanguageHead, before: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = base.logits(before).log_softmax(1)
    return (wanted.exp() * (wanted - policy.logits(states).log_softmax(1))).sum(1)


def get_language_head(model: nn.Module) -> LanguageHead:
    """The head of a transformers language model, with the scale and softcap its config declares.

    Granite divides logits by `logits_scaling`, Cohere multiplies by `logit_scale`, Gemma-2 caps them, T5 divides by the
    root of its width, BART and its kin add a constant.
    """
    linear = cast(Any, model).get_output_embeddings()
    if linear is None:
        raise ModelError(f"{type(model).__name__} has no language-model head")
    config = cast(Any, model).config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    # UMT5 does as T5 does, without saying so.
    if getattr(config, "scale_decoder_outputs", config.model_type == "umt5" and config.tie_word_embeddings):
        scale *= config.d_model**-0.5
    more = getattr(model, "final_logits_bias", None)
    bias = linear.bias if more is None else more[0].to(linear.weight.dtype)
    return LanguageHead(linear.weight, bias, scale, getattr(config, "final_logit_softcapping", None))


class _LogProbability(torch.autograd.Function):
    """log softmax(logits)[label] in chunks of rows, logits recomputed or never needed again.

    With z = logits and p = softmax(z): ∂logp/∂z = onehot(label) − p, unless labels are smoothed. While the head is
    frozen that row times the weight, [H] a prediction, is all the backward needs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        label: Tensor,
        settings: tuple[float, float | None, float],
        share: Tensor | None,
    ) -> Tensor:
        head = LanguageHead(weight, bias, *settings)
        ctx.settings, ctx.ahead = settings, None
        ctx.trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        if ctx.trained:
            share = None if share is None else share.to(_at_least_float32(hidden.dtype))
            ctx.save_for_backward(hidden, weight, bias, label, share)
            if share is not None:
                logp, ctx.ahead = _logp_with_gradients(head, hidden, label, share)
                return logp
        jacobian = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not ctx.trained else None
        logp = _empty_scores(hidden)
        for rows, raw in _logit_chunks(head, hidden, CHUNK_BYTES):
            logp[rows] = _chunk_logp(head, raw, label[rows], slope=jacobian is not None)
            if jacobian is not None:
                torch.mm(raw, weight, out=jacobian[rows])
        if jacobian is not None:
            ctx.save_for_backward(jacobian)
        return logp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if not ctx.trained:
            (jacobian,) = ctx.saved_tensors
            return (gradient.to(jacobian.dtype)[:, None] * jacobian, *[None] * 5)
        hidden, weight, bias, label, share = ctx.saved_tensors
        ahead, ctx.ahead = ctx.ahead, None
        factor = None if ahead is None else _common_factor(gradient, share)
        if factor is None:
            _, ahead = _logp_with_gradients(LanguageHead(weight, bias, *ctx.settings), hidden, label, gradient)
        to_hidden, to_weight, to_bias = ahead
        if factor is not None:
            to_hidden, to_weight = to_hidden * factor, to_weight.mul_(factor)
            to_bias = None if to_bias is None else to_bias * factor
        to_bias = None if to_bias is None else to_bias.to(bias.dtype)
        return to_hidden.to(hidden.dtype), to_weight.to(weight.dtype), to_bias, *[None] * 3


def _logp_with_gradients(
    head: LanguageHead, hidden: Tensor, label: Tensor, share: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]:
    """(logp, gradients of Σ share · logp for hidden, weight and bias).

    Shares are laid on the narrow side of each product; most are alike, and what they have in common comes last.
    """
    logp, to_hidden = _empty_scores(hidden), torch.empty_like(hidden)
    to_weight: Tensor | None = None
    to_bias = None if head.bias is None else torch.zeros_like(head.bias, dtype=logp.dtype)
    # A power of two, which costs no precision.
    common = torch.exp2(torch.floor(torch.log2(share.abs().amax().clamp(min=torch.finfo(share.dtype).tiny))))
    part = share / common
    for rows, slope in _logit_chunks(head, hidden, TRAINED_CHUNK_BYTES):
        logp[rows] = _chunk_logp(head, slope, label[rows], slope=True)
        if to_bias is not None:
            to_bias += part[rows] @ slope.to(part.dtype)
        torch.mm(slope, head.weight, out=to_hidden[rows])
        product = slope.T @ (hidden[rows] * part[rows, None]).to(hidden.dtype)
        to_weight = product if to_weight is None else to_weight.to(logp.dtype).add_(product)
    assert to_weight is not None
    to_bias = None if to_bias is None else to_bias * common
    return logp, (to_hidden * share[:, None], to_weight.mul_(common), to_bias)


def _common_factor(gradient: Tensor, share: Tensor) -> Tensor | None:
    """The number that `share` must be taken times to be `gradient`; None where there is none."""
    factor = (gradient @ share) / (share @ share)
    same = (gradient - factor * share).abs().max() <= 1e-6 * gradient.abs().max()
    return factor if same else None


def _empty_scores(hidden: Tensor) -> Tensor:
    return hidden.new_empty(len(hidden), dtype=_at_least_float32(hidden.dtype))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32, or what is wider."""
    return torch.promote_types(dtype, torch.float32)


def _logit_chunks(head: LanguageHead, hidden: Tensor, most: Mapping[str, int]) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their logits as the matmul gives them), as many bytes at once as `most` says of the device.

    The next is written over the one before.
    """
    size = min(len(hidden), max(1, most[hidden.device.type] // (len(head.weight) * hidden.element_size())))
    buffer = hidden.new_empty(size, len(head.weight))
    for start in range(0, len(hidden), size):
        part = hidden[start : start + size]
        raw = torch.mm(part, head.weight.T, out=buffer[: len(part)])
        yield slice(start, start + len(part)), raw if head.bias is None else raw.add_(head.bias)


def _chunk_logp(head: LanguageHead, raw: Tensor, label: Tensor, *, slope: bool) -> Tensor:
    """[n] log-probabilities of the labels; with `slope` their gradients [n, V] to `raw` are left where that was."""
    if raw.is_cuda:
        own = label[:, None]
        # Gathered beside the kernel, which compiled has been seen to read it after it was overwritten.
        return _chunk_logp_cuda(raw, own, raw.gather(1, own), head.scale, head.softcap, head.smoothing, slope)
    size = max(1, SOFTMAX_BLOCK_BYTES // (4 * raw.shape[1]))
    scores = []
    for start in range(0, len(raw), size):
        rows = slice(start, start + size)
        own, logits = label[rows, None], scale_and_cap(raw[rows], head.scale, head.softcap)
        p = logits.softmax(1)
        likely = p.gather(1, own)
        logp = likely.log()
        if bool((logp < MIN_LOGP).any()):
            logp = torch.where(logp < MIN_LOGP, logits.gather(1, own) - logits.logsumexp(1, keepdim=True), logp)
        share = head.smoothing
        scores.append(logp if not share else logp + share * (logits.mean(1, keepdim=True) - logits.gather(1, own)))
        if slope:
            # (1 − smoothing) · onehot + smoothing / V − p
            gradient = p.neg_().scatter_(1, own, 1 - share - likely)
            if share:
                gradient.add_(share / gradient.shape[1])
            if head.scale != 1.0:
                gradient.mul_(head.scale)
            if head.softcap is not None:
                gradient.mul_(1 - (logits / head.softcap) ** 2)
            raw[rows] = gradient
    return torch.cat(scores).squeeze(1)


@compile_on_cuda
def _chunk_logp_cuda(
    raw: Tensor, own: Tensor, chosen: Tensor, scale: float, softcap: float | None, share: float, slope: bool
) -> Tensor:
    """The same in two passes over the logits, and without asking what their numbers are; chosen [n, 1] raw at own."""
    logits = scale_and_cap(raw, scale, softcap)
    total = logits.logsumexp(1, keepdim=True)
    logp = scale_and_cap(chosen, scale, softcap) - total
    if share:
        logp = (1 - share) * logp + share * (logits.mean(1, keepdim=True) - total)
    if slope:
        gradient = (torch.arange(raw.shape[1], device=raw.device) == own) * (1 - share) + share / raw.shape[1]
        gradient = (gradient - (logits - total).exp()) * scale
        if softcap is not None:
            gradient = gradient * (1 - (logits / softcap) ** 2)
        raw.copy_(gradient)
    return logp.squeeze(1)


def scale_and_cap(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Logits in float32 or wider from those the matmul gave."""
    logits = raw.to(_at_least_float32(raw.dtype))
    logits = logits * scale if scale != 1.0 else logits
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
