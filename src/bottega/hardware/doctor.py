"""What this machine can do for a run, measured where that takes a second."""

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

PACKAGES = ("bottega", "torch", "transformers", "tokenizers", "peft", "safetensors")
MATRIX = 1024

EXTRAS = {
    "rouge_score": ("evaluate", "answers are not marked by ROUGE, BLEU and chrF"),
    "datasketch": ("audit", "near duplicates, languages and damaged text are not looked for"),
    "bitsandbytes": ("quantize", "no base can be kept in 4 bits (QLoRA)"),
    "tensorboard": ("tensorboard", "runs cannot be shown in TensorBoard"),
}
"""Modules of optional packages: which extra has them, and what is not done without."""


def doctor() -> dict[str, Any]:
    """Versions, processor, memory, disk, accelerator and matmul speed, with advice where something is amiss."""
    import torch

    from bottega.hardware.device import multiplies

    others = other_programs.look()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
        "cores": len(other_programs.cores()),
        "cores_of_others": others,
        "threads": torch.get_num_threads(),
        "memory_gb": round(_memory() / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "bfloat16": multiplies(torch.bfloat16, "cpu"),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gflops": {name: round(_gflops(getattr(torch, name))) for name in ("float32", "bfloat16")},
    }
    return facts | {"advice": _advice(facts)}


def _advice(facts: dict[str, Any]) -> list[str]:
    advice = []
    if not facts["bfloat16"] and facts["accelerator"] is None:
        advice.append("no bfloat16 products are known of this processor: model.dtype=auto means float32")
    if facts["bfloat16"] and facts["gflops"]["bfloat16"] < facts["gflops"]["float32"]:
        advice.append("bfloat16 is slower than float32 here: set model.dtype=float32")
    if facts["threads"] < facts["cores"]:
        advice.append(
            f"torch uses {facts['threads']} of {facts['cores']} cores: unset OMP_NUM_THREADS or set devices.threads"
        )
    if (facts["cores_of_others"] or 0) >= other_programs.BUSY:
        advice.append(
            f"other programs take {facts['cores_of_others']:.1f} of {facts['cores']} cores: runs give way to them and "
            "take longer; end them, or wait"
        )
    if facts["disk_free_gb"] < 5:
        advice.append("less than 5 GB of disk are free: checkpoints may not fit")
    return [*advice, *_missing()]


def _missing() -> list[str]:
    """What is not installed and would do more, with the command that installs it."""
    return [
        f"{use}: pip install 'bottega[{extra}]'" for module, (extra, use) in EXTRAS.items() if find_spec(module) is None
    ]


def _gflops(dtype: Any) -> float:
    import torch

    one = torch.randn(MATRIX, MATRIX).to(dtype)
    one @ one
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 0.3:
        one @ one
        done += 1
    return 2e-9 * MATRIX**3 * done / (time.perf_counter() - start)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
