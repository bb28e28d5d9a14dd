"""Kill runs at random moments; every resumed run must write the same files as an uninterrupted one.

    python benchmarks/endure.py [--kills 30] [--threads 1 2] [--out FILE]

Each trial starts a run as a process of its own and sends SIGKILL at a random moment of its whole life (imports,
loading, training, saving, writing the result). It then resumes the run, sometimes kills it again, and compares
checksums.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

from workloads import make_model, preferences, write_rows

from bottega.runs.atomic_files import checksum

RECIPES = {
    "dpo-lora": {
        "model": {"base": "model", "dtype": "auto"},
        "adapter": {"rank": 8, "dropout": 0.1},
        "objective": {"kind": "dpo"},
        "data": {"train": "rows.jsonl", "validation": 0.2},
        "optim": {"steps": 60, "examples": 4, "tokens": 700, "lr": 1e-3},
        "evaluate": {"every": 20, "stop_after": 9},
        "save": {"every": 3, "keep": 2},
    },
    "full-muon": {
        "model": {"base": "model", "dtype": "float32"},
        "objective": {"kind": "sft"},
        "data": {"train": "answers.jsonl", "validation": 0.2},
        "optim": {"steps": 60, "examples": 4, "lr": 1e-3, "optimizer": "muon"},
        "evaluate": {"every": 20},
        "save": {"every": 4, "keep": 2},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="kills for each number of threads")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    lines = [f"# Killed and resumed\n\n{date.today()}; SIGKILL at a random moment, then `--resume`.\n"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", "tiny")
        rows = preferences(40, prompt=30, answer=12)
        write_rows(rows, folder / "rows.jsonl")
        write_rows([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows], folder / "answers.jsonl")
        for threads in options.threads:
            for kind, recipe in RECIPES.items():
                path = folder / f"{kind}.yaml"
                path.write_text(json.dumps({**recipe, "devices": {"threads": threads}}))
                stages = endure(path, folder, options.kills // len(RECIPES), rng)
                lines.append(
                    f"- {kind}, {threads} threads: {stages.total()} kills, all equal; killed while {dict(stages)}"
                )
                print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def endure(recipe: Path, folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Kill and resume runs of a recipe; returns how often each stage was hit. Exits at the first difference."""
    whole, cut = folder / "whole", folder / "cut"
    shutil.rmtree(whole, ignore_errors=True)
    start = time.perf_counter()
    run_to_end(["train", str(recipe), "--out", str(whole)])
    lifetime, expected = time.perf_counter() - start, checksums(whole)
    stages: Counter[str] = Counter()
    while stages.total() < kills:
        shutil.rmtree(cut, ignore_errors=True)
        command = ["train", str(recipe), "--out", str(cut)]
        while start_and_kill(command, rng.uniform(0, 1.1 * lifetime)):
            stages[stage_of(cut)] += 1
            if (cut / "recipe.yaml").exists():
                command = ["train", "--resume", str(cut)]
            if stages.total() >= kills or rng.random() < 0.7:
                break
        run_to_end(command)
        if checksums(cut) != expected:
            copy = folder.with_name("endure-difference")
            shutil.copytree(folder, copy)
            sys.exit(f"{recipe.stem}: the resumed run differs; files are in {copy}")
        print(f"  {recipe.stem}: {stages.total()} of {kills} kills, all equal so far", file=sys.stderr, flush=True)
    return stages


def start_and_kill(command: list[str], seconds: float) -> bool:
    """Start a command and kill it after `seconds`; False if it ended before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bottega", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True


def run_to_end(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "bottega", *command], capture_output=True, text=True, check=False)
    # A run killed after its result was written is finished; starting it again is refused, as it should be.
    if done.returncode and "already holds a run" not in done.stderr:
        sys.exit(f"{command}: exit {done.returncode}\n{done.stderr}")


def stage_of(run: Path) -> str:
    """The stage in which the run was killed, judged by its files."""
    if not (run / "recipe.yaml").exists():
        return "starting"
    if any(run.glob(".model.partial")) or any(run.glob(".adapter.partial")):
        return "writing the result"
    if (run / "checkpoints").exists() and any((run / "checkpoints").glob(".*partial")):
        return "saving"
    if not (run / "events.jsonl").exists() or "stepped" not in (run / "events.jsonl").read_text():
        return "loading"
    return "finishing" if (run / "model").exists() or (run / "adapter").exists() else "training"


def checksums(run: Path) -> dict[str, str]:
    """Relative path → checksum of each weight and state file of a run."""
    names = [path for path in sorted(run.rglob("*")) if path.suffix in (".safetensors",) or path.name == "state.json"]
    return {str(path.relative_to(run)): checksum(path) for path in names}


if __name__ == "__main__":
    main()
