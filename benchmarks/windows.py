"""The benefit of moving windows, which cut long texts at other positions in each pass, over fixed windows.

    python benchmarks/windows.py [--steps N] [--seeds N] [--data FOLDER]

Trains on 200,000 characters of the Divine Comedy and validates on the next 40,000.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from machine import describe_machine
from real_data import ROOT, run_bottega

# Characters to train on, and to validate on.
TRAINING, VALIDATION = 200_000, 40_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args()
    text = (options.data / "it_divina_commedia" / "divina_commedia.txt").read_text(encoding="utf-8")
    print(f"{describe_machine()}\n\n| seed | fixed | moving |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train.txt").write_text(text[:TRAINING], encoding="utf-8")
        (folder / "validation.txt").write_text(text[TRAINING : TRAINING + VALIDATION], encoding="utf-8")
        train = str(folder / "train.txt")
        run_bottega("tokenizer", "train", train, "--kind", "characters", "--out", str(folder / "tokens"))
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(options.steps)), encoding="utf-8")
        for seed in range(options.seeds):
            losses = [final_loss(folder, seed, windows) for windows in ("fixed", "moving")]
            print(f"| {seed} | {losses[0]:.4f} | {losses[1]:.4f} |", flush=True)


def recipe(steps: int) -> dict[str, Any]:
    """GPT-2 with three layers of width 192; the other settings are those of nanoGPT's CPU run."""
    sizes = {"n_layer": 3, "n_embd": 192, "n_head": 4, "n_positions": 128}
    dropout = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.0}
    return {
        "model": {"shape": {"model_type": "gpt2", **sizes, **dropout}, "tokenizer": "tokens"},
        "data": {"train": "train.txt", "validation": "validation.txt", "max_length": 128},
        "objective": {"kind": "causal"},
        "optim": {"lr": 1e-3, "betas": [0.9, 0.99], "steps": steps, "examples": 32, "schedule": "cosine",
                  "warmup": 100, "floor": 0.1, "weight_decay": 0.1},
        "evaluate": {"every": max(1, steps // 5)},
    }  # fmt: skip


def final_loss(folder: Path, seed: int, windows: str) -> float:
    """The validation loss after the last update."""
    out = folder / f"{windows}-{seed}"
    changes = [f"seed={seed}", f"data.windows={windows}"]
    run_bottega("train", str(folder / "recipe.yaml"), *changes, "--out", str(out))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return float([event["loss"] for event in events if event["type"] == "validated"][-1])


if __name__ == "__main__":
    main()
