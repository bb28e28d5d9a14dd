"""Which numbers a device multiplies, and which it only imitates."""

from __future__ import annotations

import torch


def compute_dtype(wanted: str, device: str) -> torch.dtype:
    """The dtype of weights and computation; `auto` is bfloat16 where the hardware multiplies it."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    if multiplies(torch.bfloat16, device):
        return torch.bfloat16
    return torch.float16 if device == "cuda" else torch.float32


def multiplies(dtype: torch.dtype, device: str) -> bool:
    """Whether the hardware behind "cpu" or "cuda" multiplies such numbers.

    Where it does not torch imitates it: slower than float32 products, and on a CPU without AVX-512 by plain loops, tens
    of times slower. Of ARM it is not known: some have the instructions, and quicker float32 products beside them.
    """
    if dtype == torch.float32:
        return True
    if device == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return any(capabilities.get(f"{unit}_{name}") for unit in ("avx512", "amx"))
