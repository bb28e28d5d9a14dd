"""A description of the machine that a result was measured on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe_machine(*packages: str) -> str:
    """Processor, number of threads, and the versions of the packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} × {names[0]}" if names else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in packages or ("bottega", "torch", "transformers", "peft"))
    return f"{processor}, {torch.get_num_threads()} threads; {versions}"
