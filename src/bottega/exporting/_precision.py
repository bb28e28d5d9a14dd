"""Precisions that weights can be written in, and how far a model in each may be from the trained one."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """What a precision is, and the bounds of the proof of an export in it; None where none is set.

    dtype        of the weights that are written, before any quantization
    difference   largest difference of a logit
    kl           mean divergence in nats a token
    correlation  least correlation of all logits, of a head with several
    greedy       whether the likeliest tokens must all be the trained model's
    quantized    blocks of weights share a scale: what that costs the task is measured
    proved_whole_first  its rounding could hide a fault, so the same is proved in float32 first
    """

    title: str
    dtype: torch.dtype = torch.float32
    difference: float | None = None
    kl: float | None = None
    correlation: float = 0.8
    greedy: bool = False
    quantized: bool = False
    proved_whole_first: bool = False


PRECISIONS = {
    "fp32": Precision("float32", difference=1e-3, greedy=True),
    "fp16": Precision("float16", torch.float16, kl=1e-2, correlation=0.999),
    "bf16": Precision("bfloat16", torch.bfloat16, kl=1e-2, correlation=0.999),
    "int8": Precision("8 bits", kl=1e-2, correlation=0.99, quantized=True),
    "q8_0": Precision("8 bits", kl=1e-2, correlation=0.99, quantized=True),
    "int4": Precision("4 bits", kl=0.5, quantized=True, proved_whole_first=True),
    "q4_0": Precision("4 bits", kl=0.5, quantized=True, proved_whole_first=True),
    "q4_k_m": Precision("4 to 6 bits", kl=0.5, quantized=True, proved_whole_first=True),
}
