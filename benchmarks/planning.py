"""How far `bottega plan` is from what runs then take: a grid of methods, shapes, lengths and precisions.

    make planning        # or: python benchmarks/planning.py [--only NUMBER …] [--out FILE]

Each recipe is planned, then run for some updates; memory is the peak of the process, time that of the updates after
those that warm up, of which a plan leaves out as many. Half an hour on two cores; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import described
from workloads import VOCABULARY, make_tokenizer

import bottega
from bottega.planning.calibration import WARMUP_UPDATES
from bottega.recipe.schema import Recipe
from bottega.runs.store import read_events

STEPS = 20
SHAPES: dict[str, dict[str, Any]] = {
    "12 × 256": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 12, "num_attention_heads": 4},
    "30 × 576": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "8 × 768": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12},
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "full": {"objective": {"kind": "sft"}},
    "LoRA": {"objective": {"kind": "sft"}, "adapter": {"rank": 16}},
    "DPO, LoRA": {"objective": {"kind": "dpo"}, "adapter": {"rank": 16}},
    "full, recomputed": {"objective": {"kind": "sft"}, "optim": {"checkpointing": True}},
}
LENGTHS = {"short": 60, "long": 400}

# Promised errors: the median's, and the worst.
MEMORY, TIME = (0.10, 0.20), (0.15, 0.30)


def grid() -> Iterator[tuple[str, str, str, str]]:
    """Methods, shapes, lengths and precisions, 24 of them."""
    for number, method in enumerate(METHODS):
        for shape in SHAPES:
            for place, length in enumerate(LENGTHS):
                yield (
                    method,
                    shape,
                    length,
                    "float32" if (number + place) % 3 == 2 and shape != "30 × 576" else "bfloat16",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines, apart = [], []
    for number, cell in enumerate(grid()):
        if options.only and number not in options.only:
            continue
        with tempfile.TemporaryDirectory() as name:
            recipe = made(Path(name), *cell)
            plan = bottega.plan(recipe)
            memory, seconds = taken(recipe, Path(name))
        errors = plan.memory / memory - 1, (plan.seconds_per_update or 0) / seconds - 1
        apart.append(errors)
        lines.append(
            f"| {' | '.join(cell)} | {plan.memory / 1e9:.2f} | {memory / 1e9:.2f} | {errors[0]:+.1%} | "
            f"{plan.seconds_per_update:.2f} | {seconds:.2f} | {errors[1]:+.1%} |"
        )
        print(lines[-1], flush=True)
    said = []
    for what, promised, errors in zip(("memory", "time"), (MEMORY, TIME), zip(*apart, strict=True), strict=True):
        sizes = [abs(error) for error in errors]
        kept = "kept" if median(sizes) <= promised[0] and max(sizes) <= promised[1] else "MISSED"
        said.append(
            f"| {what} | {median(sizes):.1%} (≤ {promised[0]:.0%}) | {max(sizes):.1%} (≤ {promised[1]:.0%}) | {kept} |"
        )
    text = "\n".join(
        [
            "# What was planned and what was taken",
            "",
            f"{date.today()}, {described()}. {STEPS} updates of 8 examples each, random weights.",
            "",
            "| | median error | worst | |",
            "|---|---|---|---|",
            *said,
            "",
            "| method | layers × width | rows | precision | GB planned | taken | | s an update planned | taken | |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def made(folder: Path, method: str, shape: str, length: str, precision: str) -> Recipe:
    """A recipe of the grid, with a model and rows of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    fixed = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(**fixed, max_position_embeddings=2048, tie_word_embeddings=True, **SHAPES[shape])
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder / "model")
    make_tokenizer(folder / "model")
    given = METHODS[method]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in written(given["objective"]["kind"], LENGTHS[length])))
    return Recipe.parse(
        {
            "model": {"base": str(folder / "model"), "dtype": precision},
            "adapter": given.get("adapter"),
            "data": {"train": str(rows)},
            "objective": given["objective"],
            "optim": {"steps": STEPS, "examples": 8, "lr": 1e-5, **given.get("optim", {})},
        }
    )


def written(kind: str, length: int) -> list[dict[str, str]]:
    """Rows with prompts and answers of about so many words in all."""
    draw = np.random.default_rng(0)

    def words(count: float) -> str:
        size = max(4, round(draw.normal(count, count / 4)))
        return " ".join(f"w{number}" for number in draw.integers(4, VOCABULARY, size))

    if kind == "dpo":
        return [
            {"prompt": words(length / 2), "chosen": " " + words(length / 4), "rejected": " " + words(length / 4)}
            for _ in range(200)
        ]
    return [{"prompt": words(length / 2), "completion": " " + words(length / 2)} for _ in range(200)]


def taken(recipe: Recipe, folder: Path) -> tuple[int, float]:
    """(peak bytes, seconds an update once it is warm) of a run, in a process of its own."""
    from bottega.runs.store import recipe_yaml

    (folder / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "bottega", "train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True)
    stepped = [event for event in read_events(folder / "run") if event["type"] == "stepped"]
    later = stepped[WARMUP_UPDATES:]
    return max(event["memory"] for event in stepped), sum(event["seconds"] for event in later) / len(later)


if __name__ == "__main__":
    main()
