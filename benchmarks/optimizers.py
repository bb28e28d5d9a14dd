"""What each optimizer takes where every weight is trained: peak memory and seconds of an update.

    python benchmarks/optimizers.py [--shape 135m] [--updates 6] [--rounds 3] [--out FILE]

What they learn is in `adapters.py`.
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
from statistics import median
from typing import get_args

from machine import describe_machine, training_dtype
from measuring import ENVIRONMENT
from workloads import instructions, make_model, write_rows

from bottega.recipe.schema import Optimizer

EXAMPLES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = get_args(Optimizer)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model", options.shape)
        write_rows(instructions(EXAMPLES * options.updates), folder / "rows.jsonl")
        for _ in range(options.rounds):
            for name in names:
                took[name].append(train(folder, name, options.updates))
                print(name, took[name][-1], flush=True)
    seconds = {name: median(one[0] for one in found) for name, found in took.items()}
    memory = {name: median(one[1] for one in found) for name, found in took.items()}
    lines = [
        "# What optimizers take",
        "",
        f"{date.today()}, {describe_machine()}; {options.shape} shapes, {training_dtype()}, every weight trained,",
        f"{EXAMPLES} rows an update; medians of {options.rounds} alternating rounds. Memory: the peak of the process.",
        "",
        "| optimizer | seconds an update | beside adamw | peak memory, MB | beside adamw |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {seconds[name]:.2f} | {seconds[name] / seconds['adamw']:.2f} × "
            f"| {memory[name]:,.0f} | {memory[name] / memory['adamw']:.2f} × |"
            for name in names
        ),
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(folder: Path, optimizer: str, updates: int) -> tuple[float, float]:
    """(median seconds of an update but the first, peak megabytes) of a run."""
    recipe = {
        "model": {"base": "model", "dtype": training_dtype()},
        "objective": {"kind": "sft"},
        "data": {"train": "rows.jsonl"},
        "optim": {"optimizer": optimizer, "steps": updates, "examples": EXAMPLES, "lr": 1e-5},
    }
    path, out = folder / "recipe.yaml", folder / "run"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    subprocess.run(["rm", "-rf", str(out)], check=True)
    command = [sys.executable, "-m", "bottega", "train", str(path), "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT)
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(errors.decode()[-3000:])
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [event["seconds"] for event in events if event["type"] == "stepped"]
    return median(seconds[1:]), usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
