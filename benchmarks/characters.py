"""How long tinyshakespeare takes to nanoGPT's own validation loss, at its GPU settings: our recipe, and its model.

    python benchmarks/characters.py [--until LOSS] [--steps N] [--data FOLDER] [--cpu]

Wall time from the start of a process to the validation that reaches the loss, all that comes before included: imports,
reading, compiling. The model is tried as it is and compiled. `--cpu` sees with a few updates that all of it runs.
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

from gpu import named
from machine import described
from real_data import ROOT, bottega

# What nanoGPT says that its settings reach.
LOSS = 1.4697


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", type=float, default=LOSS)
    parser.add_argument("--steps", type=int, default=5000, help="most updates of nanoGPT's model")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    print(f"{named('cpu' if options.cpu else 'cuda')}; {described()}\n")
    print(f"| | seconds to {options.until:g} | updates | loss |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(options.data / "tinyshakespeare" / "input.txt", folder / "input.txt")
        ours(folder, options.until, options.cpu)
        for compiled in (False, True):
            theirs(folder, options.until, 2 if options.cpu else options.steps, compiled)


def ours(folder: Path, until: float, brief: bool) -> None:
    text, tokenizer = str(folder / "input.txt"), str(folder / "characters")
    started = time.time()
    bottega("tokenizer", "train", text, "--kind", "characters", "--out", tokenizer)
    changes = [f"model.tokenizer={tokenizer}", f"data.train={text}"]
    changes += ["optim.steps=2", "evaluate.rows=8"] if brief else []
    bottega("train", str(ROOT / "benchmarks" / "characters.yaml"), *changes, "--out", str(folder / "run"))
    lines = (folder / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [event for event in map(json.loads, lines) if event["type"] == "validated"]
    # The validation that reaches it; where none does, the last.
    one = next((event for event in seen if event["loss"] <= until), seen[-1])
    row("bottega", one["time"] - started, one["step"], one["loss"], until)


def theirs(folder: Path, until: float, steps: int, compiled: bool) -> None:
    script = str(ROOT / "benchmarks" / "peers" / "reference.py")
    command = [sys.executable, script, str(folder), "--gpt", "gpu", "--steps", str(steps), "--until", str(until)]
    started = time.time()
    done = subprocess.run([*command, *(["--compile"] if compiled else [])], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    name = f"nanoGPT's model{', compiled' if compiled else ''}"
    row(name, found["ended"] - started, found["steps"], found["loss"], until)


def row(name: str, seconds: float, updates: int, loss: float, until: float) -> None:
    reached = f"{seconds:.0f}" if loss <= until else f"not in {seconds:.0f}"
    print(f"| {name} | {reached} | {updates} | {loss:.4f} |", flush=True)


if __name__ == "__main__":
    main()
