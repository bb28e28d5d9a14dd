"""Logits → the sampled token: penalty, temperature, filters, and a draw that no other row of the batch changes.

Legend: B continuations, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from bottega.models import native
from bottega.sampling import Sampling

# The logit of a token that is never sampled.
EXCLUDED = -torch.inf

# A float32 below it is zero, or loses digits.
LOWEST_TEMPERATURE = torch.finfo(torch.float32).tiny

# Probabilities that are summed together: see `sample_tokens`.
BLOCK = 256

# The largest float64 below 1.
BELOW_ONE = 1 - 2**-53

# The token id returned where no token can be chosen.
NO_TOKEN = -1


def filter_logits(logits: Tensor, seen: Tensor | None, settings: Sampling) -> Tensor:
    """[B, V] logits → those to sample from, in float32 or wider; excluded tokens have `EXCLUDED`.

    Greedily, those whose largest is chosen: without a penalty the same.

    seen  [B, V] whether a token occurs in the row so far; only a repetition penalty needs it
    """
    penalty = 1.0 if seen is None else settings.repetition_penalty or 1.0
    if not settings.temperature and penalty == 1.0:  # no filter changes the likeliest token
        return logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if penalty != 1.0 and seen is not None:
        # Both ways make the token less likely (Keskar et al. 2019, arXiv 1909.05858).
        penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
        logits = torch.where(seen, penalized, logits)
    if not settings.temperature:
        return logits
    # Less the largest, so that no temperature above 0 is too low to divide by.
    logits = (logits - logits.amax(-1, keepdim=True)) / max(settings.temperature, LOWEST_TEMPERATURE)
    if settings.top_k:
        smallest = logits.topk(min(settings.top_k, logits.shape[-1])).values[:, -1:]  # [B, 1]
        logits = logits.masked_fill(logits < smallest, EXCLUDED)
    if settings.top_p < 1.0:
        logits = _top_p(logits, settings.top_p)
    if settings.min_p:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < settings.min_p * probabilities.amax(-1, keepdim=True), EXCLUDED)
    return logits


def _top_p(logits: Tensor, mass: float) -> Tensor:
    """Without the least likely tokens that together have at most 1 − `mass`; the likeliest always stays."""
    ascending, order = logits.sort(descending=False)
    dropped = ascending.softmax(-1).cumsum(-1) <= 1 - mass
    dropped[:, -1] = False
    return logits.masked_fill(dropped.scatter(1, order, dropped), EXCLUDED)


def sample_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """[B, V] filtered logits, [B] uniform numbers in [0, 1) → [B] token ids, by inverting the cumulative distribution.

    `NO_TOKEN` where the largest logit is not finite.
    """
    # In two steps, first a block of tokens and then a token of it: one cumulative sum over a vocabulary is slow, and
    # its rounding errors add up.
    count, size = logits.shape
    weights = logits.new_zeros(count, -(-size // BLOCK) * BLOCK)  # [B, V rounded up to whole blocks]
    largest = logits.amax(-1, keepdim=True)  # [B, 1]
    torch.sub(logits, largest, out=weights[:, :size])
    weights[:, :size].exp_()
    blocks = weights.view(count, -1, BLOCK)  # [B, blocks, BLOCK]
    block, rest = _invert_cdf(blocks.sum(-1, dtype=torch.float64), uniform)
    chosen = blocks[torch.arange(count, device=logits.device), block].double()  # [B, BLOCK]
    return torch.where(largest.squeeze(1).isfinite(), block * BLOCK + _invert_cdf(chosen, rest)[0], NO_TOKEN)


def greedy_tokens(logits: Tensor) -> Tensor:
    """[B, V] logits → [B] the likeliest token ids; `NO_TOKEN` where the largest logit is not finite."""
    if native.operators() is not None and logits.is_cpu and logits.dtype in native.DTYPES:  # a fifth of the time
        return cast(Tensor, torch.ops.bottega.greedy(logits))
    largest, token = logits.max(-1)
    return torch.where(largest.isfinite(), token, NO_TOKEN)


def _invert_cdf(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """[B, n] weights, [B] in [0, 1) → [B] the index whose interval holds the number, [B] where in it, in [0, 1)."""
    ends = weights.cumsum(-1)
    # Scaled by the last sum and not by the exact total, so that rounding leaves no gap after the last interval.
    target = (uniform * ends[:, -1])[:, None]
    # right=True skips intervals of width zero: an excluded token is never chosen.
    index = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[1] - 1)
    width = weights.gather(1, index)
    within = (target - (ends.gather(1, index) - width)) / width
    return index.squeeze(1), within.clamp(0, BELOW_ONE).squeeze(1)
