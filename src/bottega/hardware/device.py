"""Which numbers a device multiplies, and which it only imitates."""

from __future__ import annotations

import torch

from bottega.errors import RunError


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


def device_for(wanted: str, *, where: str) -> str:
    """ "cuda" or "cpu": as wanted, and for `auto` CUDA where there is such a device.

    Raises RunError at `where` for CUDA where there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("no CUDA device here", where=where, fix="set it to auto or cpu; see: bottega doctor")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


class DeviceMeter:
    """Memory and utilization of an accelerator since the meter was made; zero and None on a CPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self._has_driver = True
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> int:
        """Peak bytes of the accelerator."""
        return torch.cuda.max_memory_allocated() if self.cuda else 0

    def utilization(self) -> float | None:
        """Fraction of the last moments in which the accelerator was busy; None where its driver does not say."""
        if not self.cuda or not self._has_driver:
            return None
        try:
            return torch.cuda.utilization() / 100
        except Exception:  # the driver's library is not part of torch, and has errors of its own
            self._has_driver = False
            return None
