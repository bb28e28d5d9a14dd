"""One measurement: a process from its start to its end, and what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Added to every recipe, for a processor that cannot do what a recipe asks for at speed (model.dtype=float32).
OVERRIDES: list[str] = []

QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Measure:
    """What a run took.

    seconds      of the work alone
    memory       peak bytes
    amount       how much was done, where that is not as planned
    since_start  seconds from the start of the process to the end of the work
    parts        seconds of each update, where the work is made of updates
    """

    seconds: float
    memory: float
    amount: float = 0.0
    since_start: float = 0.0
    parts: tuple[float, ...] = ()


def script(command: list[str], *, first: bool = True) -> Measure:
    """A script that prints one JSON line at its end, with the seconds and tokens of its updates, and its memory.

    first  count the first update too
    """
    started = time.time()
    result = json.loads(call(command).splitlines()[-1])
    skipped = 0 if first else 1
    amount = sum(result.get("tokens", [])[skipped:])
    since_start = result.get("ended", started) - started
    return Measure(sum(result["seconds"][skipped:]), result["memory"], amount, since_start)


def bottega(
    folder: Path, recipe: str, *overrides: str, first: bool = True, until: float = 0.0, characters: str = ""
) -> Measure:
    """A recipe from `folder` through the command line.

    first       count the first update too
    until       stop counting at this validation loss, which must be reached
    characters  train a tokenizer of this file's characters first, as `characters`
    """
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-m", "bottega"]
    if characters and not (folder / "characters").exists():
        call(
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
        call([*command, "train", str(folder / "recipe.yaml"), *overrides, *OVERRIDES, "--out", f"{out}/run"])
        events = [json.loads(line) for line in Path(out, "run", "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["type"] == "stepped"]
    if until:
        reached = [event["step"] for event in events if event["type"] == "validated" and event["loss"] <= until]
        if not reached:
            sys.exit(f"a validation loss of {until} was not reached")
        steps = [step for step in steps if step["step"] <= reached[0]]
    counted = steps[0 if first else 1 :]
    return Measure(
        sum(step["seconds"] for step in counted),
        steps[-1]["memory"],
        0.0 if first else sum(step["tokens_real"] for step in counted),
        since_start=steps[0]["time"] - started,
        parts=tuple(step["seconds"] for step in counted),
    )


def call(command: list[str]) -> str:
    """The output of a command; ends the benchmark with its complaint where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout
