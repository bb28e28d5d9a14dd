"""Speed and memory of an audit, on a generated file of a million short rows.

    python benchmarks/auditing.py [--rows 1000000] [--out FILE]

Each row of the table is a process of its own: reading alone, all checks but the two slow ones, each of these, and all
together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
from machine import describe_machine

AUDIT = "import sys, json, bottega; print(bottega.audit(sys.argv[1], **json.loads(sys.argv[2])).seconds)"
SLOW = ["near_duplicates", "languages"]
# Title → options of `bottega.audit`.
SELECTIONS: dict[str, dict[str, list[str]]] = {
    "reading alone": {"only": ["unsound"]},
    "all but near_duplicates and languages": {"skip": SLOW},
    "near_duplicates": {"only": ["near_duplicates"]},
    "languages": {"only": ["languages"]},
    "all": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# Audit of a large file",
        "",
        f"{date.today()}, {describe_machine()}. {options.rows:,} rows: a prompt of 8 to 15 words, an answer of 6.",
        "",
        "| checks | seconds | rows per second | peak memory, GB |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        for name, selection in SELECTIONS.items():
            seconds, memory = measure_audit(path, selection)
            lines.append(f"| {name} | {seconds:.0f} | {options.rows / seconds:,.0f} | {memory / 1e9:.2f} |")
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_rows(path: Path, rows: int) -> None:
    """Write rows of random words from a vocabulary of 12,000; one row in a hundred nearly repeats the one before."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghilmnoprstuv"), rng.integers(3, 9))) for _ in range(12_000)])
    prompt = ""
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            is_repeat = index % 100 == 99
            prompt = f"{prompt} too" if is_repeat else " ".join(rng.choice(words, rng.integers(8, 16)))
            row = {"prompt": f"{prompt}?", "completion": " ".join(rng.choice(words, 6)) + "."}
            file.write(json.dumps(row) + "\n")


def measure_audit(path: Path, selection: dict[str, list[str]]) -> tuple[float, float]:
    """(seconds of the audit itself, peak bytes of its process)."""
    command = [sys.executable, "-c", AUDIT, str(path), json.dumps(selection)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seconds = float(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise SystemExit(f"the audit failed with exit status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit


if __name__ == "__main__":
    main()
