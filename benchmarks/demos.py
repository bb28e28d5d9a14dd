"""Does the demo reach what it promises, in every world?

    python benchmarks/demos.py [--worlds en:0 en:1 en:2 it:0] [--out FILE]

Each world is invented, learned and measured anew, as `bottega demo` does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from machine import described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=["en:0", "en:1", "en:2", "it:0"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The demo in several worlds",
        "",
        f"{date.today()}, {described()}.",
        "",
        "| world | base | tuned | gain, 95 % | fields | preferred | the longer one | loss < bigram | training | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for world in options.worlds:
        lines.append(line(world))
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def line(world: str) -> str:
    """A line of the table: what a world reached, and whether that is what was promised."""
    language, _, seed = world.partition(":")
    with tempfile.TemporaryDirectory() as name:
        command = ["demo", "--language", language, "--seed", seed, "--out", f"{name}/demo", "--json"]
        subprocess.run([sys.executable, "-m", "bottega", *command], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(Path(name, "demo", "summary.json").read_text(encoding="utf-8"))
    low, high = found["gain_interval"]
    kept = (
        found["tuned_accuracy"] >= 0.85
        and low >= 0.4
        and found["preference_accuracy"] >= 0.85
        and found["length_heuristic_accuracy"] <= 0.6
        and found["pretrain_loss"] < found["bigram_entropy"]
        and found["train_seconds"] <= 300
    )
    return (
        f"| {world} | {found['base_accuracy']:.3f} | {found['tuned_accuracy']:.3f} | {low:+.2f} to {high:+.2f} "
        f"| {found['fields_accuracy']:.3f} | {found['preference_accuracy']:.3f} "
        f"| {found['length_heuristic_accuracy']:.3f} | {found['pretrain_loss']:.2f} < {found['bigram_entropy']:.2f} "
        f"| {found['train_seconds']:.0f} s | {'kept' if kept else 'MISSED'} |"
    )


if __name__ == "__main__":
    main()
