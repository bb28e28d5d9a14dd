"""A description of the machine that a result was measured on, and how results are written."""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from bottega.hardware.device import compute_dtype

# What multiplies, the fastest first, by the flag of /proc/cpuinfo; the first two also bfloat16.
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def describe_machine(*packages: str) -> str:
    """Processor, number of threads, and the versions of the packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    # Processors of one name differ in what they multiply.
    units = [title for flag, title in UNITS.items() if flag in flags][:1]
    processor = " with ".join([f"{len(names)} × {names[0]}", *units]) if names else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in packages or ("bottega", "torch", "transformers", "peft"))
    return f"{processor}, {torch.get_num_threads()} threads; {versions}"


def training_dtype() -> str:
    """What models are trained in on this processor, by every tool: bfloat16 if it multiplies that, else float32."""
    return str(compute_dtype("auto", "cpu")).removeprefix("torch.")


def write_result(title: str, body: str, out: Path | None) -> None:
    """Print a result with its date and machine, and write it to a file if one is named."""
    text = f"# {title}\n\n{date.today()}, {describe_machine()}.\n\n{body.rstrip()}\n"
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
