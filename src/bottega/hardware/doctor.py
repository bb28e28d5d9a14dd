"""`bottega doctor`: what this machine can do for a run, measured where that takes a second at most."""

from __future__ import annotations

import os
import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bottega.hardware import other_programs
from bottega.hardware.native_library import native_advice

PACKAGES = ("bottega", "torch", "transformers", "tokenizers", "peft", "safetensors")

# Rows and columns of the matrices multiplied to measure speed: large enough to reach it, and done in milliseconds on
# most machines. Smaller ones show how long that will take.
MATRIX_SIZE, FIRST_MATRIX_SIZE = 1024, 128
MEASURED_SECONDS = 0.3

# Free disk space below which checkpoints of a small model with its optimizer may not fit.
LOW_DISK_GB = 5

# By module of an optional package: the extra it belongs to, and what is not available without it.
EXTRAS = {
    "rouge_score": ("evaluate", "answers are not scored by ROUGE, BLEU and chrF"),
    "datasketch": ("audit", "near duplicates, languages and damaged text are not checked"),
    "bitsandbytes": ("quantize", "no base can be kept in 4 bits (QLoRA)"),
    "tensorboard": ("tensorboard", "runs cannot be written for TensorBoard"),
}


def doctor() -> dict[str, Any]:
    """Versions, processor, memory, disk, accelerator and matmul speed, and under `advice` what could be better."""
    # Here and not above, so that `import bottega` stays fast.
    import torch

    from bottega.hardware.device import has_native_dtype

    # Before the speed is measured: our own products would not count as another program's, but slow it down.
    cores_of_others = other_programs.measure_cores_of_others()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
        "cores": len(other_programs.usable_cores()),
        "cores_of_others": cores_of_others,
        "threads": torch.get_num_threads(),
        "memory_gb": round(_total_memory() / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "bfloat16": has_native_dtype(torch.bfloat16, "cpu"),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gflops": {name: round(_measure_gflops(getattr(torch, name))) for name in ("float32", "bfloat16")},
    }
    return facts | {"advice": _advice(facts)}


def _advice(facts: dict[str, Any]) -> list[str]:
    advice = []
    if not facts["bfloat16"] and facts["accelerator"] is None:
        advice.append("this processor is not known to multiply bfloat16: model.dtype=auto means float32")
    # Some processors report bfloat16 instructions that are slower than their float32 ones.
    if facts["bfloat16"] and facts["gflops"]["bfloat16"] < facts["gflops"]["float32"]:
        advice.append("bfloat16 is slower than float32 here: set model.dtype=float32")
    if facts["threads"] < facts["cores"]:
        advice.append(
            f"torch uses {facts['threads']} of {facts['cores']} cores: unset OMP_NUM_THREADS or set devices.threads"
        )
    if (facts["cores_of_others"] or 0) >= other_programs.YIELD_FROM:
        advice.append(
            f"other programs use {facts['cores_of_others']:.1f} of {facts['cores']} cores: runs yield to them and take "
            "longer; end them, or wait"
        )
    if facts["disk_free_gb"] < LOW_DISK_GB:
        advice.append(f"less than {LOW_DISK_GB} GB of disk space is free: checkpoints may not fit")
    return [*advice, *filter(None, [native_advice()]), *_missing_extras()]


def _missing_extras() -> list[str]:
    """For each optional package that is not installed: what is missing without it, and the command that installs it."""
    return [
        f"{effect}: pip install 'bottega[{extra}]'"
        for module, (extra, effect) in EXTRAS.items()
        if find_spec(module) is None
    ]


def _measure_gflops(dtype: Any) -> float:
    """GFLOP/s of matrix products in this dtype on the CPU."""
    import torch

    size = min(FIRST_MATRIX_SIZE, MATRIX_SIZE)
    while True:
        matrix = torch.randn(size, size).to(dtype)
        matrix @ matrix  # the first product also compiles the kernel
        start = time.perf_counter()
        matrix @ matrix
        # A product of matrices twice as large takes eight times as long: seconds where a dtype is emulated.
        if 2 * size > MATRIX_SIZE or 8 * (time.perf_counter() - start) > MEASURED_SECONDS:
            break
        size *= 2
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < MEASURED_SECONDS:
        matrix @ matrix
        products += 1
    # 2 n³ operations for each product of two n × n matrices.
    return 2e-9 * size**3 * products / (time.perf_counter() - start)


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
