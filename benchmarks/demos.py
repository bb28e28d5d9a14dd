"""Does the demo reach its targets in every invented world?

    python benchmarks/demos.py [--worlds en:0 en:1 en:2 it:0] [--out FILE]

Each world is a run of `bottega demo` with its own language and seed.
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

from machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=["en:0", "en:1", "en:2", "it:0"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The demo in several worlds",
        "",
        f"{date.today()}, {describe_machine()}.",
        "",
        "| world | base | tuned | gain, 95 % CI | fields | preference | longer answer | loss < bigram | training | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for world in options.worlds:
        lines.append(run_world(world))
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_world(world: str) -> str:
    """Run the demo; returns the world's row of the table, with whether it reached the targets."""
    language, _, seed = world.partition(":")
    with tempfile.TemporaryDirectory() as name:
        command = ["demo", "--language", language, "--seed", seed, "--out", f"{name}/demo", "--json"]
        subprocess.run([sys.executable, "-m", "bottega", *command], check=True, stdout=subprocess.DEVNULL)
        summary: dict[str, Any] = json.loads(Path(name, "demo", "summary.json").read_text(encoding="utf-8"))
    low, high = summary["gain_interval"]
    reached = (
        summary["tuned_accuracy"] >= 0.85
        and low >= 0.4
        and summary["preference_accuracy"] >= 0.85
        and summary["length_heuristic_accuracy"] <= 0.6
        and summary["pretrain_loss"] < summary["bigram_entropy"]
        and summary["train_seconds"] <= 300
    )
    return (
        f"| {world} | {summary['base_accuracy']:.3f} | {summary['tuned_accuracy']:.3f} | {low:+.2f} to {high:+.2f} "
        f"| {summary['fields_accuracy']:.3f} | {summary['preference_accuracy']:.3f} "
        f"| {summary['length_heuristic_accuracy']:.3f} "
        f"| {summary['pretrain_loss']:.2f} < {summary['bigram_entropy']:.2f} "
        f"| {summary['train_seconds']:.0f} s | {'reached' if reached else 'MISSED'} |"
    )


if __name__ == "__main__":
    main()
