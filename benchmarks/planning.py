"""The errors of `bottega plan`: a grid of methods, shapes, lengths and precisions, planned and then run.

    make planning        # or: python benchmarks/planning.py [--only NUMBER …] [--out FILE]

Each recipe is planned, then run for some updates. Memory is the peak of the process, time the mean of the updates after
as many warm-up updates as a plan excludes. This takes half an hour on two cores; nothing else should run meanwhile.
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
from machine import describe_machine
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
    "full, checkpointing": {"objective": {"kind": "sft"}, "optim": {"checkpointing": True}},
}
LENGTHS = {"short": 60, "long": 400}

# Targets: the largest median error, and the largest error.
MEMORY_TARGETS, TIME_TARGETS = (0.10, 0.20), (0.15, 0.30)


def grid() -> Iterator[tuple[str, str, str, str]]:
    """Yield 24 combinations of (method, shape, length, precision)."""
    for method_index, method in enumerate(METHODS):
        for shape in SHAPES:
            for length_index, length in enumerate(LENGTHS):
                yield (
                    method,
                    shape,
                    length,
                    "float32" if (method_index + length_index) % 3 == 2 and shape != "30 × 576" else "bfloat16",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines, all_errors = [], []
    for number, cell in enumerate(grid()):
        if options.only and number not in options.only:
            continue
        with tempfile.TemporaryDirectory() as name:
            recipe = make_recipe(Path(name), *cell)
            plan = bottega.plan(recipe)
            memory, seconds = run_recipe(recipe, Path(name))
        errors = plan.memory / memory - 1, (plan.seconds_per_update or 0) / seconds - 1
        all_errors.append(errors)
        lines.append(
            f"| {' | '.join(cell)} | {plan.memory / 1e9:.2f} | {memory / 1e9:.2f} | {errors[0]:+.1%} | "
            f"{plan.seconds_per_update:.2f} | {seconds:.2f} | {errors[1]:+.1%} |"
        )
        print(lines[-1], flush=True)
    summary = []
    for quantity, targets, errors in zip(
        ("memory", "time"), (MEMORY_TARGETS, TIME_TARGETS), zip(*all_errors, strict=True), strict=True
    ):
        sizes = [abs(error) for error in errors]
        verdict = "reached" if median(sizes) <= targets[0] and max(sizes) <= targets[1] else "MISSED"
        summary.append(
            f"| {quantity} | {median(sizes):.1%} (≤ {targets[0]:.0%}) "
            f"| {max(sizes):.1%} (≤ {targets[1]:.0%}) | {verdict} |"
        )
    text = "\n".join(
        [
            "# Planned and measured memory and time",
            "",
            f"{date.today()}, {describe_machine()}. {STEPS} updates of 8 examples each, random weights.",
            "",
            "| | median error | largest error | |",
            "|---|---|---|---|",
            *summary,
            "",
            "| method | layers × width | rows | precision | GB, planned | measured | error "
            "| s per update, planned | measured | error |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def make_recipe(folder: Path, method: str, shape: str, length: str, precision: str) -> Recipe:
    """The recipe of a combination; writes its model and rows to the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(**tokens, max_position_embeddings=2048, tie_word_embeddings=True, **SHAPES[shape])
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder / "model")
    make_tokenizer(folder / "model")
    sections = METHODS[method]
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps(row) + "\n" for row in make_rows(sections["objective"]["kind"], LENGTHS[length]))
    )
    return Recipe.parse(
        {
            "model": {"base": str(folder / "model"), "dtype": precision},
            "adapter": sections.get("adapter"),
            "data": {"train": str(rows)},
            "objective": sections["objective"],
            "optim": {"steps": STEPS, "examples": 8, "lr": 1e-5, **sections.get("optim", {})},
        }
    )


def make_rows(kind: str, length: int) -> list[dict[str, str]]:
    """Rows whose prompt and answers have about `length` words together."""
    rng = np.random.default_rng(0)

    def words(count: float) -> str:
        size = max(4, round(rng.normal(count, count / 4)))
        return " ".join(f"w{number}" for number in rng.integers(4, VOCABULARY, size))

    if kind == "dpo":
        return [
            {"prompt": words(length / 2), "chosen": " " + words(length / 4), "rejected": " " + words(length / 4)}
            for _ in range(200)
        ]
    return [{"prompt": words(length / 2), "completion": " " + words(length / 2)} for _ in range(200)]


def run_recipe(recipe: Recipe, folder: Path) -> tuple[int, float]:
    """Train in a process of its own; returns (peak bytes, mean seconds per update after warm-up)."""
    from bottega.runs.store import recipe_yaml

    (folder / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "bottega", "train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True)
    stepped = [event for event in read_events(folder / "run") if event["type"] == "stepped"]
    later = stepped[WARMUP_UPDATES:]
    return max(event["memory"] for event in stepped), sum(event["seconds"] for event in later) / len(later)


if __name__ == "__main__":
    main()
