"""Speed and memory of an audit, on a generated file of a million short rows.

    python benchmarks/auditing.py [--rows 1000000] [--out FILE]

Each line is a process of its own: reading alone, all checks but those that compare texts or tell languages, each of
these, and all together.
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
from machine import described

ONE = "import sys, json, bottega; print(bottega.audit(sys.argv[1], **json.loads(sys.argv[2])).seconds)"
SLOW = ["near_duplicates", "languages"]
WAYS: dict[str, dict[str, list[str]]] = {
    "reading alone": {"only": ["unsound"]},
    "all but near and languages": {"skip": SLOW},
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
        "# An audit of a large file",
        "",
        f"{date.today()}, {described()}. {options.rows:,} rows: a prompt of 8 to 15 words, an answer of 6.",
        "",
        "| checks | seconds | rows per second | peak memory, GB |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, options.rows)
        for name, way in WAYS.items():
            seconds, memory = measured(path, way)
            lines.append(f"| {name} | {seconds:.0f} | {options.rows / seconds:,.0f} | {memory / 1e9:.2f} |")
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write(path: Path, rows: int) -> None:
    """Rows of words drawn from twelve thousand, one in a hundred of them nearly the same as one before."""
    draw = np.random.default_rng(0)
    words = np.array(["".join(draw.choice(list("abcdefghilmnoprstuv"), draw.integers(3, 9))) for _ in range(12_000)])
    prompt = ""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            again = number % 100 == 99
            prompt = f"{prompt} too" if again else " ".join(draw.choice(words, draw.integers(8, 16)))
            row = {"prompt": f"{prompt}?", "completion": " ".join(draw.choice(words, 6)) + "."}
            file.write(json.dumps(row) + "\n")


def measured(path: Path, way: dict[str, list[str]]) -> tuple[float, float]:
    """(seconds the audit says it took, peak bytes of its process)."""
    command = [sys.executable, "-c", ONE, str(path), json.dumps(way)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seconds = float(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise SystemExit(f"the audit ended with {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit


if __name__ == "__main__":
    main()
