"""The machine a result was measured on, in words."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def described(*packages: str) -> str:
    """Processor, threads and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} × {names[0]}" if names else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in packages or ("bottega", "torch", "transformers", "peft"))
    return f"{processor}, {torch.get_num_threads()} threads; {versions}"
