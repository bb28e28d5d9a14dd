"""One measurement: a process from start to end, and the seconds and memory that it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Overrides of every recipe, such as model.dtype=float32.
OVERRIDES: list[str] = []

# The checkout that is measured. `beside.py` changes it: scripts import modules by the names they have in their build.
measured_checkout = Path(__file__).parent.parent

# Offline, and with compiled modules, as an installed package has them.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True)
class Measure:
    """Time and memory of a run.

    spans        (start, end) of each measured part, such as an update, on the clock of `time.time`
    memory       peak bytes
    amount       amount of work done, where it differs from the planned one; else 0
    since_start  seconds from the start of the process to the end of the work
    """

    spans: tuple[tuple[float, float], ...]
    memory: float
    amount: float = 0.0
    since_start: float = 0.0

    @property
    def seconds(self) -> float:
        """The time of all measured parts together."""
        return sum(end - start for start, end in self.spans)


def measure_script(command: list[str], *, first: bool = True) -> Measure:
    """Run a script whose last line of output is JSON, with the seconds and tokens of its updates, and its memory.

    first  include the first update
    """
    started = time.time()
    result = json.loads(run_command(command).splitlines()[-1])
    skipped = 0 if first else 1
    amount = sum(result.get("tokens", [])[skipped:])
    since_start = result.get("ended", started) - started
    seconds, ended = sum(result["seconds"][skipped:]), result.get("ended", time.time())
    return Measure(((ended - seconds, ended),), result["memory"], amount, since_start)


def measure_bottega(
    folder: Path, recipe: str, *overrides: str, first: bool = True, until: float = 0.0, characters: str = ""
) -> Measure:
    """Train a recipe in `folder` through the command line.

    first       include the first update
    until       measure up to the first validation loss of at most this, which must be reached
    characters  first train a tokenizer on the characters of this file, saved as `characters`
    """
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-m", "bottega"]
    if characters and not (folder / "characters").exists():
        run_command(
            [
                *command,
                "tokenizer",
                "train",
                str(folder / characters),
                "--kind",
                "characters",
                "--out",
                str(folder / "characters"),
            ]
        )
    started = time.time()
    with tempfile.TemporaryDirectory() as out:
        run_command([*command, "train", str(folder / "recipe.yaml"), *overrides, *OVERRIDES, "--out", f"{out}/run"])
        events = [json.loads(line) for line in Path(out, "run", "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["type"] == "stepped"]
    if until:
        reached = [event["step"] for event in events if event["type"] == "validated" and event["loss"] <= until]
        if not reached:
            sys.exit(f"a validation loss of {until} was not reached")
        steps = [step for step in steps if step["step"] <= reached[0]]
    measured = steps[0 if first else 1 :]
    return Measure(
        tuple((step["time"] - step["seconds"], step["time"]) for step in measured),
        steps[-1]["memory"],
        0.0 if first else sum(step["tokens_real"] for step in measured),
        since_start=steps[0]["time"] - started,
    )


def run_command(command: list[str]) -> str:
    """The output of a command; if it fails, the benchmark exits with the end of its error output."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout
