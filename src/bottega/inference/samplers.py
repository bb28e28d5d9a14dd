"""Logits → the token drawn: penalty, temperature, filters, and a draw that no other row of the batch can change."""

from __future__ import annotations

import torch
from torch import Tensor

from bottega.sampling import Sampling

NEVER = -torch.inf

# Tokens that are added up together.
BLOCK = 256

BELOW_ONE = 1 - 2**-53

# Stands for a token where there is none to be had.
NONE = -1


def filtered(logits: Tensor, seen: Tensor | None, settings: Sampling) -> Tensor:
    """[B, V] logits → the logits that are drawn from, in float32 or wider.

    seen  [B, V] which tokens stand in the row so far; needed for a repetition penalty only
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if (penalty := settings.repetition_penalty) not in (None, 1.0) and seen is not None:
        penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
        logits = torch.where(seen, penalised, logits)
    if not settings.temperature:
        return logits
    logits = logits / settings.temperature
    if settings.top_k:
        least = logits.topk(min(settings.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, NEVER)
    if settings.top_p < 1.0:
        logits = _top_p(logits, settings.top_p)
    if settings.min_p:
        share = logits.softmax(-1)
        logits = logits.masked_fill(share < settings.min_p * share.amax(-1, keepdim=True), NEVER)
    return logits


def _top_p(logits: Tensor, mass: float) -> Tensor:
    """Without the unlikeliest tokens that together have no more than 1 − `mass`; the likeliest always stays."""
    ascending, order = logits.sort(descending=False)
    dropped = ascending.softmax(-1).cumsum(-1) <= 1 - mass
    dropped[:, -1] = False
    return logits.masked_fill(dropped.scatter(1, order, dropped), NEVER)


def draw(logits: Tensor, chance: Tensor) -> Tensor:
    """[B, V] filtered logits, [B] numbers from 0 to 1 → [B] tokens, by the inverse of the cumulative distribution.

    In two steps, a block of tokens and one of it: adding up all of a vocabulary one by one is slow, and inexact. Where
    logits are no numbers, the token is `NONE`.
    """
    count, size = logits.shape
    shares = logits.new_zeros(count, -(-size // BLOCK) * BLOCK)
    most = logits.amax(-1, keepdim=True)
    torch.sub(logits, most, out=shares[:, :size])
    shares[:, :size].exp_()
    blocks = shares.view(count, -1, BLOCK)
    block, within = _found(blocks.sum(-1, dtype=torch.float64), chance)
    chosen = blocks[torch.arange(count, device=logits.device), block].double()
    return torch.where(most.squeeze(1).isfinite(), block * BLOCK + _found(chosen, within)[0], NONE)


def likeliest(logits: Tensor) -> Tensor:
    """[B, V] logits → [B] tokens; `NONE` where they are no numbers."""
    most, token = logits.max(-1)
    return torch.where(most.isfinite(), token, NONE)


def _found(shares: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """[B, n], [B] → [B] the place in whose share the chance falls, and [B] where in it, from 0 to 1."""
    ends = shares.cumsum(-1)
    # Scaled by its own end, so that rounding leaves no room beyond the last.
    wanted = (chance * ends[:, -1])[:, None]
    place = torch.searchsorted(ends, wanted, right=True).clamp(max=ends.shape[1] - 1)
    own = shares.gather(1, place)
    within = (wanted - (ends.gather(1, place) - own)) / own
    return place.squeeze(1), within.clamp(0, BELOW_ONE).squeeze(1)
