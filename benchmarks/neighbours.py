"""What a busy machine costs: updates alone, beside one busy program, and two runs at once.

    python benchmarks/neighbours.py [--only MODEL …] [--steps N] [--rounds N] [--data FOLDER] [--out FILE]

Everything is measured with and without yielding to other programs (`bottega.hardware.other_programs`), alternating, and
medians of the rounds are compared. On two cores a run's fair share of its speed is two thirds beside one busy program,
which takes one of three turns at a core, and a half beside an equal run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from machine import described
from real_data import ROOT

FAIR = {"alone": 1.0, "beside one busy program": 2 / 3, "two runs at once": 0.5}

# Code that comes before the command: with the second no other program is ever seen to be busy.
WAYS = {"gives way": "", "as it is": "import bottega.hardware.other_programs as n; n.YIELD_FROM = float('inf'); "}

RUN = "import sys; {before}from bottega.__main__ import main; sys.argv[0] = 'bottega'; main()"
MODELS: dict[str, dict[str, Any]] = {
    "stories260K": {"base": "stories260K_hf"},
    "26 M": {
        "shape": {"model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
                  "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 1024},
        "tokenizer": "stories260K_hf",
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["# Beside other programs", "", f"{date.today()}, {described()}; seconds an update, medians.", ""]
    lines += ["| model | | gives way | of its fair share | as it is | of its fair share |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for model in options.only:
            recipe = written(model, options, Path(name))
            found = measured(recipe, options.rounds, Path(name))
            quick = median(found["alone", "as it is"])
            for place, fair in FAIR.items():
                cells = []
                for way in WAYS:
                    seconds = median(found[place, way])
                    cells += [f"{seconds:.3f}", f"{quick / seconds / fair:.2f}"]
                lines.append(f"| {model} | {place} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def written(model: str, options: argparse.Namespace, folder: Path) -> Path:
    """A recipe on instructions: a LoRA where there is a model to adapt, every weight of one from scratch."""
    given = {
        key: str(options.data / value) if isinstance(value, str) else value for key, value in MODELS[model].items()
    }
    recipe = {
        "model": given,
        "adapter": {"rank": 8} if "base" in given else None,
        "data": {"train": str(options.data / "rasbt_instruct_1100" / "instruction-data.json"), "max_length": 512},
        "objective": {"kind": "sft"},
        "optim": {"steps": options.steps, "examples": 8, "lr": 1e-4},
        "save": None,
    }
    path = folder / f"{model.replace(' ', '')}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def measured(recipe: Path, rounds: int, folder: Path) -> dict[tuple[str, str], list[float]]:
    """(place, way) → seconds an update, each round's median."""
    found = defaultdict[tuple[str, str], list[float]](list)
    for number in range(rounds):
        for place in FAIR:
            for way in WAYS if number % 2 else reversed(WAYS):
                outs = [
                    folder / f"{recipe.stem}-{number}-{place[:3]}-{way[:2]}-{one}"
                    for one in range(1 + ("two" in place))
                ]
                with busy("busy" in place):
                    running = [started(recipe, way, out) for out in outs]
                    for process in running:
                        if process.wait():
                            raise SystemExit(f"a run ended with {process.returncode}")
                found[place, way].append(median(seconds(outs[0])))
    return found


def started(recipe: Path, way: str, out: Path) -> subprocess.Popen[bytes]:
    code = RUN.format(before=WAYS[way])
    command = [sys.executable, "-c", code, "train", str(recipe), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Another program that keeps one core busy meanwhile."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds(run: Path) -> list[float]:
    """Of the second half of a run's updates: until then the watch may still be looking, or another run starting."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event["seconds"] for event in events if event["type"] == "stepped"]
    return steps[len(steps) // 2 :]


if __name__ == "__main__":
    main()
