"""SFT and DPO against TRL: the same model, rows, precision and settings, in one sitting, alternating.

    python benchmarks/versus_trl.py --peer .venv-bench/bin/python [--rounds 3] [--shape 135m] [--out FILE]

Every measurement is a fresh process that goes over the rows three times, TRL's default number of epochs; every update
is timed, the first included. Tokens are counted from the rows, not from what a tool reports. TRL runs with its
defaults and once more without gradient checkpointing: speed is compared with the faster of the two, memory with the
leaner.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median

from machine import described
from workloads import instructions, make_model, preferences, real_tokens, write

HERE = Path(__file__).parent
EPOCHS = 3
TARGETS = {"sft": 3.5, "dpo": 4.0}
EXAMPLES = {"sft": 8, "dpo": 4}
RECIPE = """
model: {{base: {folder}/model, dtype: bfloat16}}
adapter: {{kind: lora, rank: 16, alpha: 32}}
data: {{train: {folder}/{work}.jsonl}}
objective: {{kind: {work}}}
optim: {{steps: {steps}, examples: {examples}, lr: 1.0e-4}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="python of an environment with trl==1.16.0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3, help="updates an epoch")
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", options.shape)
        rows = {
            work: make(EXAMPLES[work] * options.updates) for work, make in (("sft", instructions), ("dpo", preferences))
        }
        for work, content in rows.items():
            write(content, folder / f"{work}.jsonl")
        results = {work: sitting(work, folder, options) for work in rows}
    text = table(results, rows, options)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def sitting(work: str, folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Measurements by contender, taken in turn."""
    contenders = {
        "bottega": lambda: ours(work, folder, options.updates),
        "TRL, defaults": lambda: trl(work, folder, options, []),
        "TRL, checkpointing off": lambda: trl(work, folder, options, ["--no-checkpointing"]),
    }
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, run in contenders.items():
            measured[name].append(run())
            print(f"{work:4} {name:24} {measured[name][-1]}", file=sys.stderr, flush=True)
    return measured


def ours(work: str, folder: Path, updates: int) -> dict[str, float]:
    recipe = folder / f"{work}.yaml"
    content = RECIPE.format(folder=folder, work=work, steps=EPOCHS * updates, examples=EXAMPLES[work])
    recipe.write_text(content, encoding="utf-8")
    with tempfile.TemporaryDirectory() as out:
        call([sys.executable, "-m", "bottega", "train", str(recipe), "--out", f"{out}/run"])
        events = [json.loads(line) for line in Path(out, "run", "events.jsonl").read_text().splitlines()]
    stepped = [event for event in events if event["type"] == "stepped"]
    return {"seconds": sum(event["seconds"] for event in stepped), "memory": stepped[-1]["memory"]}


def trl(work: str, folder: Path, options: argparse.Namespace, more: list[str]) -> dict[str, float]:
    sizes = ["--steps", str(EPOCHS * options.updates), "--examples", str(EXAMPLES[work])]
    out = call([options.peer, str(HERE / "peers" / "trl_run.py"), work, str(folder), *sizes, *more])
    result = json.loads(out.splitlines()[-1])
    return {"seconds": sum(result["seconds"]), "memory": result["memory"]}


def call(command: list[str]) -> str:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def table(results: dict, rows: dict, options: argparse.Namespace) -> str:
    lines = [
        f"# SFT and DPO against TRL, {options.shape} shapes",
        "",
        f"{date.today()}, {described()}, TRL 1.16.0; bfloat16, LoRA rank 16 on all linear layers. "
        f"Medians of {options.rounds} alternating rounds: {EPOCHS} epochs of {options.updates} updates, all timed. "
        "What DPO's reference says of a row is computed in the first epoch and remembered.",
        "",
        "| work | contender | real tokens/s | peak memory, GB |",
        "|---|---|---|---|",
    ]
    verdicts = []
    for work, measured in results.items():
        tokens = EPOCHS * real_tokens(rows[work])
        speed = {name: tokens / median(run["seconds"] for run in runs) for name, runs in measured.items()}
        memory = {name: median(run["memory"] for run in runs) for name, runs in measured.items()}
        lines += [f"| {work} | {name} | {speed[name]:.0f} | {memory[name] / 1e9:.2f} |" for name in measured]
        peers = [name for name in measured if name != "bottega"]
        faster = speed["bottega"] / max(speed[name] for name in peers)
        leaner = memory["bottega"] / min(memory[name] for name in peers)
        mark = "reached" if faster >= TARGETS[work] else "missed"
        verdicts.append(
            f"- {work}: {faster:.2f} × the faster TRL's speed (target {TARGETS[work]} ×: {mark}), "
            f"{leaner:.2f} × the leaner TRL's memory"
        )
    return "\n".join([*lines, "", *verdicts, ""])


if __name__ == "__main__":
    main()
