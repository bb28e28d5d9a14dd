"""Four adapters of one base, trained at once and one after another: tokens a second, and peak memory.

    python benchmarks/together.py [--shape 135m] [--updates 8] [--rounds 3] [--only NAME …] [--out FILE]

Each adapter has rows of its own. Whole commands are measured, and in them the time from the first update's start to the
last one's end. One after another: four commands, whose times add up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

from bench import LORA
from machine import describe_machine, training_dtype
from measuring import ENVIRONMENT
from workloads import instructions, make_model, shared_prefix_rows, write_rows

NAMES = ("billing", "tone", "returns", "style")

# Rows of an update, and the tokens of prompts that all adapters have, which are then computed by the base alone.
WORKLOADS = {
    "1 row": (1, 0),
    "2 rows": (2, 0),
    "8 rows": (8, 0),
    "8 rows, the same prompts of 150 tokens": (8, 150),
    "8 rows, the same prompts of 400 tokens": (8, 400),
}

# The words that end such a prompt, from which on a row uses its adapter.
INVOCATION = "w7 w7 w7"


@dataclass(frozen=True)
class Took:
    """What commands took together: seconds, those of them between first and last update, peak bytes."""

    seconds: float
    updates: float
    memory: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# Four adapters trained at once, beside four runs one after another",
        "",
        f"{date.today()}, {describe_machine()}; {options.shape} shapes, {training_dtype()}.",
        f"{options.updates} updates of each adapter, LoRA of rank 16; medians of {options.rounds} alternating rounds.",
        "",
        "| an update of each | tokens | in turn, s | at once, s | tokens a second | whole commands | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", options.shape)
        for title in options.only:
            lines.append(compare(folder, title, options.updates, options.rounds))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(folder: Path, title: str, updates: int, rounds: int) -> str:
    """The row of the table of a workload."""
    examples, shared = WORKLOADS[title]
    count = len(NAMES) * updates * examples
    rows = same_prompts(count, shared) if shared else instructions(count)
    for place, name in enumerate(NAMES):
        write_rows(rows[place :: len(NAMES)], folder / f"{name}.jsonl")
    adapter = LORA.replace("}", f", invocation: {INVOCATION}}}") if shared else LORA
    sections = {
        "model": {"base": "model", "dtype": training_dtype()},
        "objective": {"kind": "sft"},
        "optim": {"steps": updates, "examples": examples, "lr": 1e-4},
    }
    own = {name: {"data": {"train": f"{name}.jsonl"}} for name in NAMES}
    text = json.dumps({**sections, "adapters": own}).replace('"objective"', f'"adapter": {adapter}, "objective"')
    (folder / "all.yaml").write_text(text, encoding="utf-8")
    for name, entry in own.items():
        text = json.dumps({**sections, **entry}).replace('"objective"', f'"adapter": {adapter}, "objective"')
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    turns, alone, together = list[Took](), list[Took](), list[Took]()
    tokens = 0
    for _ in range(rounds):
        turns = [train(folder, [name]) for name in NAMES]
        alone.append(
            Took(
                sum(one.seconds for one in turns),
                sum(one.updates for one in turns),
                max(one.memory for one in turns),
            )
        )
        together.append(train(folder, ["all"]))
        tokens = counted(folder, [Path("all", name) for name in NAMES])
    before, after = (
        Took(*(median(getattr(one, key) for one in some) for key in ("seconds", "updates", "memory")))
        for some in (alone, together)
    )
    return (
        f"| {title} | {tokens / updates:,.0f} | {before.updates:.1f} | {after.updates:.1f} "
        f"| {before.updates / after.updates:.2f} × | {before.seconds / after.seconds:.2f} × "
        f"| {after.memory / before.memory:.2f} × |"
    )


def same_prompts(count: int, length: int) -> list[dict[str, str]]:
    """Of each document of this length a row for every adapter, with an answer of 20 tokens, as in extraction."""
    documents = shared_prefix_rows(count // len(NAMES), header=0, row=2 * length)
    answers = shared_prefix_rows(count, header=0, row=40)
    return [
        {"prompt": f"{documents[place // len(NAMES)]['prompt'].strip()} {INVOCATION} ", "completion": row["completion"]}
        for place, row in enumerate(answers)
    ]


def train(folder: Path, names: Sequence[str]) -> Took:
    """Train by a recipe of the folder."""
    (name,) = names
    out = folder / f"run-{name}"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    command = [sys.executable, "-m", "bottega", "train", str(folder / f"{name}.yaml"), "--out", str(out)]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT)
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(errors.decode()[-3000:])
    found = events(out, [Path()] if name != "all" else [Path(one) for one in NAMES])
    # Runs that are trained at once load one after another, before the first update.
    begun = max(event["time"] for event in found if event["type"] == "started")
    ended = max(event["time"] for event in found if event["type"] == "stepped")
    return Took(seconds, ended - begun, 1024 * usage.ru_maxrss)


def events(folder: Path, runs: Sequence[Path]) -> list[dict[str, float]]:
    return [json.loads(line) for run in runs for line in (folder / run / "events.jsonl").read_text().splitlines()]


def counted(folder: Path, runs: Sequence[Path]) -> int:
    """Tokens of all updates of the runs."""
    found = events(folder / "run-all", [Path(run.name) for run in runs])
    return sum(int(event["tokens_real"]) for event in found if event["type"] == "stepped")


if __name__ == "__main__":
    main()
