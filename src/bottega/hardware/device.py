"""The device and the dtype to compute with, chosen by what the hardware has units for."""

from __future__ import annotations

import torch

from bottega.errors import ModelError, RunError


def resolve_device(requested: str = "auto", *, where: str = "device") -> str:
    """The device to compute on, "cuda" or "cpu", for `auto`, `cuda` or `cpu`.

    Raises RunError at `where` if CUDA is requested and there is no CUDA device.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise RunError("no CUDA device here", where=where, fix="set it to auto or cpu; see: bottega doctor")
    return available_device() if requested == "auto" else requested


def available_device(requested: str = "auto") -> str:
    """Like `resolve_device`, but "cpu" if CUDA is requested and absent: for estimates, which need no device."""
    return "cuda" if requested != "cpu" and torch.cuda.is_available() else "cpu"


def compute_dtype(requested: str, device: str) -> torch.dtype:
    """The dtype of weights and computation; `auto` is bfloat16 if the hardware multiplies it."""
    if requested != "auto":
        dtype: torch.dtype | None = getattr(torch, requested, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            fix = "auto, bfloat16, float16 or float32; to use a model on a CPU also int8"
            raise ModelError(f"no dtype {requested} to compute in", where="dtype", fix=fix)
        return dtype
    if has_native_dtype(torch.bfloat16, device):
        return torch.bfloat16
    # GPUs without bfloat16 units have float16 ones. CPUs without them compute fastest in float32.
    return torch.float16 if device == "cuda" else torch.float32


def has_native_dtype(dtype: torch.dtype, device: str) -> bool:
    """Whether the hardware of "cpu" or "cuda" has units that multiply this dtype.

    False for half precision on ARM processors, about which torch reports nothing: some have bfloat16 instructions, but
    their float32 products may be faster.
    """
    if dtype == torch.float32:
        return True
    if device == "cuda":
        # By default torch counts emulation, and then reports bfloat16 for a T4.
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    # Without such units torch emulates the dtype: slower than float32, and without AVX-512 tens of times slower.
    capabilities = torch.cpu.get_capabilities()
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return any(capabilities.get(f"{unit}_{name}") for unit in ("avx512", "amx"))


class DeviceMeter:
    """Peak memory and utilization of an accelerator since the meter was created; 0 and None on a CPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self._has_driver = True
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> int:
        """Peak bytes of the accelerator."""
        return torch.cuda.max_memory_allocated() if self.cuda else 0

    def utilization(self) -> float | None:
        """Fraction of recent time in which the accelerator was busy; None if its driver does not report it."""
        if not self.cuda or not self._has_driver:
            return None
        try:
            return torch.cuda.utilization() / 100
        except Exception:  # the driver's library is not part of torch, and has error types of its own
            self._has_driver = False
            return None
