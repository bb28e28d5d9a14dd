"""Does memory depend on the size of the file? Trains on a small and on a large file, and compares peak memory.

    python benchmarks/large_file.py [--megabytes 10 1000] [--out FILE]

The rows are generated instructions with answers of some hundred characters. Each run reads, encodes and caches every
row of its file, holds out a hundredth for validation, and makes three updates of a small model. To compare with another
build, run this file with PYTHONPATH set to its sources.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from machine import describe_machine
from workloads import make_model

RECIPE = {
    "model": {"base": "model", "dtype": "float32"},
    "data": {"train": "rows.jsonl", "validation": 0.01},
    "objective": {"kind": "sft"},
    "optim": {"steps": 3, "examples": 8},
    # A few only, or scoring a hundredth of the rows would take as long as reading them all.
    "evaluate": {"rows": 64},
}
WORDS = [f"w{number}" for number in range(500)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# Files of any size",
        "",
        f"{date.today()}, {describe_machine()}. Three updates of a tiny model on a file of instructions; peak",
        "resident memory of the whole process, and the time from the command to its end.",
        "",
        "| file | rows | peak memory | time | read and encoded |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", "tiny")
        for megabytes in options.megabytes:
            lines.append(train_and_measure(folder, megabytes))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_and_measure(folder: Path, megabytes: int) -> str:
    """Train on a file of this size; returns its row of the table."""
    rows = write_rows(folder / "rows.jsonl", megabytes * 10**6)
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    out = folder / f"run-{megabytes}"
    start = time.perf_counter()
    command = [sys.executable, "-m", "bottega", "train", str(folder / "recipe.yaml"), "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    assert status == 0, f"the run failed: {' '.join(command)}"
    unit = 1 if sys.platform == "darwin" else 1024
    return (
        f"| {megabytes:,} MB | {rows:,} | {unit * usage.ru_maxrss / 1e6:.0f} MB | {seconds:.0f} s "
        f"| {megabytes / seconds:.1f} MB/s |"
    )


def write_rows(path: Path, size: int) -> int:
    """Write a file of at least `size` bytes; returns its number of rows."""
    rng, written, rows = random.Random(0), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            instruction, output = (" ".join(rng.choices(WORDS, k=rng.randint(20, 60))) for _ in range(2))
            line = json.dumps({"instruction": f"{rows}: {instruction}", "output": output}) + "\n"
            written += file.write(line)
            rows += 1
    return rows


if __name__ == "__main__":
    main()
