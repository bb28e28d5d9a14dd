"""Prompts in, continuations out: transformers' own `generate`, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

PLAIN = "sdpa"
"""Attention with a key/value cache; the packed one has none."""


@torch.no_grad()
def generate(
    network: Any, prompts: Sequence[Sequence[int]], *, tokens: int, temperature: float, seed: int, eos: int | None
) -> list[list[int]]:
    """A continuation of each prompt, [≤ tokens] token ids; greedy at temperature 0."""
    packed = network.config._attn_implementation
    network.set_attn_implementation(PLAIN)
    torch.manual_seed(seed)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    try:
        return [_continue(network, prompt, eos, max_new_tokens=tokens, **sampling) for prompt in prompts]
    finally:
        network.set_attn_implementation(packed)


def _continue(network: Any, prompt: Sequence[int], eos: int | None, **settings: Any) -> list[int]:
    ids = torch.tensor([prompt], device=network.device)
    out = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        eos_token_id=eos,
        pad_token_id=eos if eos is not None else 0,
        **settings,
    )
    continuation: list[int] = out[0, len(prompt) :].tolist()
    return continuation
