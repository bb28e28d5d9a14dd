"""A description of the machine that a result was measured on, and how results are written."""

from __future__ import annotations

import platform
from datetime import date
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


def write_result(title: str, body: str, out: Path | None) -> None:
    """Print a result with its date and machine, and write it to a file if one is named."""
    text = f"# {title}\n\n{date.today()}, {describe_machine()}.\n\n{body.rstrip()}\n"
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
