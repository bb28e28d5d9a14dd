"""How much other programs slow a run down: updates alone, beside one busy program, and two runs at once.

    python benchmarks/neighbours.py [--only MODEL …] [--steps N] [--rounds N] [--data FOLDER] [--out FILE]

Each situation is measured with and without yielding to other programs (`bottega.hardware.other_programs`), alternating;
the results are medians of the rounds. On two cores the fair share of a run's full speed is two thirds beside one busy
program, which gets one of three time slices, and one half beside an equal run.
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
from machine import describe_machine
from real_data import ROOT

# Situation → fair fraction of the speed that a run has alone, on two cores.
FAIR_SHARES = {"alone": 1.0, "beside one busy program": 2 / 3, "two runs at once": 0.5}

# Mode → code that runs before the command. The second disables yielding: no other program ever counts as busy.
MODES = {"yielding": "", "not yielding": "import bottega.hardware.other_programs as n; n.YIELD_FROM = float('inf'); "}

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
    lines = [
        "# Speed beside other programs",
        "",
        f"{date.today()}, {describe_machine()}; seconds per update, medians.",
        "",
    ]
    lines += [
        "| model | situation | yielding | of its fair share | not yielding | of its fair share |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        for model in options.only:
            recipe = write_recipe(model, options, Path(name))
            seconds_by_case = measure(recipe, options.rounds, Path(name))
            full_speed = median(seconds_by_case["alone", "not yielding"])
            for situation, fair_share in FAIR_SHARES.items():
                cells = []
                for mode in MODES:
                    seconds = median(seconds_by_case[situation, mode])
                    cells += [f"{seconds:.3f}", f"{full_speed / seconds / fair_share:.2f}"]
                lines.append(f"| {model} | {situation} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def write_recipe(model: str, options: argparse.Namespace, folder: Path) -> Path:
    """Write an SFT recipe: LoRA for a model with a base, full training for one from scratch."""
    section = {
        key: str(options.data / value) if isinstance(value, str) else value for key, value in MODELS[model].items()
    }
    recipe = {
        "model": section,
        "adapter": {"rank": 8} if "base" in section else None,
        "data": {"train": str(options.data / "rasbt_instruct_1100" / "instruction-data.json"), "max_length": 512},
        "objective": {"kind": "sft"},
        "optim": {"steps": options.steps, "examples": 8, "lr": 1e-4},
        "save": None,
    }
    path = folder / f"{model.replace(' ', '')}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def measure(recipe: Path, rounds: int, folder: Path) -> dict[tuple[str, str], list[float]]:
    """(situation, mode) → median seconds per update of each round."""
    seconds_by_case = defaultdict[tuple[str, str], list[float]](list)
    for index in range(rounds):
        for situation in FAIR_SHARES:
            for mode in MODES if index % 2 else reversed(MODES):
                outs = [
                    folder / f"{recipe.stem}-{index}-{situation[:3]}-{mode[:3]}-{run}"
                    for run in range(1 + ("two" in situation))
                ]
                with busy_program("busy" in situation):
                    processes = [start(recipe, mode, out) for out in outs]
                    for process in processes:
                        if process.wait():
                            raise SystemExit(f"a run ended with {process.returncode}")
                seconds_by_case[situation, mode].append(median(late_update_seconds(outs[0])))
    return seconds_by_case


def start(recipe: Path, mode: str, out: Path) -> subprocess.Popen[bytes]:
    code = RUN.format(before=MODES[mode])
    command = [sys.executable, "-c", code, "train", str(recipe), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def busy_program(wanted: bool) -> Iterator[None]:
    """Inside, if wanted, another program keeps one core busy."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def late_update_seconds(run: Path) -> list[float]:
    """Seconds of each update in the second half of a run."""
    # Earlier the load may not have been detected yet, or the other run may still be starting.
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event["seconds"] for event in events if event["type"] == "stepped"]
    return steps[len(steps) // 2 :]


if __name__ == "__main__":
    main()
