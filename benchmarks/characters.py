"""Time to nanoGPT's validation loss on tinyshakespeare, at its GPU settings: bottega, and nanoGPT's model.

    python benchmarks/characters.py [--until LOSS] [--steps N] [--data FOLDER] [--cpu]

The time is wall time from the start of a process to the validation that reaches the loss, including imports, reading
and compilation. nanoGPT's model runs eagerly and compiled. `--cpu` only checks with a few updates that everything runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu import device_name
from machine import describe_machine
from real_data import ROOT, run_bottega

# The validation loss that nanoGPT reports for these settings.
LOSS = 1.4697


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", type=float, default=LOSS)
    parser.add_argument("--steps", type=int, default=5000, help="maximum number of updates of nanoGPT's model")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    print(f"{device_name('cpu' if options.cpu else 'cuda')}; {describe_machine()}\n")
    print(f"| | seconds to {options.until:g} | updates | loss |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(options.data / "tinyshakespeare" / "input.txt", folder / "input.txt")
        train_bottega(folder, options.until, options.cpu)
        for compiled in (False, True):
            train_nanogpt(folder, options.until, 2 if options.cpu else options.steps, compiled)


def train_bottega(folder: Path, until: float, quick: bool) -> None:
    text, tokenizer = str(folder / "input.txt"), str(folder / "characters")
    started = time.time()
    run_bottega("tokenizer", "train", text, "--kind", "characters", "--out", tokenizer)
    overrides = [f"model.tokenizer={tokenizer}", f"data.train={text}"]
    overrides += ["optim.steps=2", "evaluate.rows=8"] if quick else []
    run_bottega("train", str(ROOT / "benchmarks" / "characters.yaml"), *overrides, "--out", str(folder / "run"))
    lines = (folder / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    validations = [event for event in map(json.loads, lines) if event["type"] == "validated"]
    # The first validation that reaches the loss; if none does, the last.
    reached = next((event for event in validations if event["loss"] <= until), validations[-1])
    print_row("bottega", reached["time"] - started, reached["step"], reached["loss"], until)


def train_nanogpt(folder: Path, until: float, steps: int, compiled: bool) -> None:
    script = str(ROOT / "benchmarks" / "peers" / "reference.py")
    command = [sys.executable, script, str(folder), "--gpt", "gpu", "--steps", str(steps), "--until", str(until)]
    started = time.time()
    done = subprocess.run([*command, *(["--compile"] if compiled else [])], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    name = f"nanoGPT's model{', compiled' if compiled else ''}"
    print_row(name, result["ended"] - started, result["steps"], result["loss"], until)


def print_row(name: str, seconds: float, updates: int, loss: float, until: float) -> None:
    time_text = f"{seconds:.0f}" if loss <= until else f"not within {seconds:.0f}"
    print(f"| {name} | {time_text} | {updates} | {loss:.4f} |", flush=True)


if __name__ == "__main__":
    main()
