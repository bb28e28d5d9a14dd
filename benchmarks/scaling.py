"""How the time of an update grows with context, batch and parameters, compared with its FLOPs.

    python benchmarks/scaling.py [--repeats 3] [--out FILE]

Each series varies one size. The exponent is the slope of log seconds over log size, fitted to all points of a series;
the theoretical exponent is the slope of the FLOPs of the same updates.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np
from bench import LORA, prepare, recipe
from machine import describe_machine, training_dtype
from stepping import Stepper
from workloads import SHAPES, VOCABULARY, documents

CONTEXTS, BATCHES, MODELS = (128, 256, 512, 1024), (1, 2, 4, 8), ("10m", "135m", "500m")
METHODS = {"LoRA": LORA, "full fine-tuning": "null"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# How the time of an update grows",
        "",
        f"{date.today()}, {describe_machine()}; {training_dtype()}. "
        f"Medians of {options.repeats} updates after two that are excluded.",
        "",
        "| method | varies | seconds per update | exponent | of the FLOPs |",
        "|---|---|---|---|---|",
    ]
    for method, adapter in METHODS.items():
        for title, points in series():
            sizes, seconds, flops = [], [], []
            for size, model, rows, context in points:
                sizes.append(size)
                seconds.append(update_seconds(model, rows, context, adapter, options.repeats))
                flops.append(update_flops(model, rows, context, trained=adapter == "null"))
            times = ", ".join(f"{size:.4g}: {time:.2f}" for size, time in zip(sizes, seconds, strict=True))
            lines.append(f"| {method} | {title} | {times} | {slope(sizes, seconds):.2f} | {slope(sizes, flops):.2f} |")
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


def series() -> Iterator[tuple[str, list[tuple[float, str, int, int]]]]:
    """Yield (title, points); a point is (size, model, rows, context)."""
    yield "context, 2 rows, 135 M", [(context, "135m", 2, context) for context in CONTEXTS]
    yield "rows of 256, 135 M", [(rows, "135m", rows, 256) for rows in BATCHES]
    yield "parameters, 2 rows of 256", [(parameters(model), model, 2, 256) for model in MODELS]


def update_seconds(model: str, rows: int, context: int, adapter: str, repeats: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, documents(rows, context + 1), model)
        text = recipe("causal", 9, rows, adapter) + f"data: {{train: rows.jsonl, max_length: {context}}}\n"
        stepper = Stepper(folder, text.replace("data: {train: rows.jsonl}\n", ""), 1)
        return median([stepper.step(0) for _ in range(2 + repeats)][2:])


def parameters(model: str) -> float:
    return VOCABULARY * float(SHAPES[model]["hidden_size"]) + layer_parameters(model)


def layer_parameters(model: str) -> float:
    shape = SHAPES[model]
    width, inner = float(shape["hidden_size"]), float(shape["intermediate_size"])
    key_value_fraction = float(shape["num_key_value_heads"]) / float(shape["num_attention_heads"])
    return float(shape["num_hidden_layers"]) * width * (2 * width + 2 * key_value_fraction * width + 3 * inner)


def update_flops(model: str, rows: int, context: int, *, trained: bool) -> float:
    """Floating-point operations of an update, including the masked half of attention."""
    shape = SHAPES[model]
    tokens, passes = rows * context, 3 if trained else 2
    attention = 12.0 * rows * context**2 * float(shape["hidden_size"]) * float(shape["num_hidden_layers"])
    return 2.0 * passes * tokens * parameters(model) + attention


def slope(sizes: list[float], values: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


if __name__ == "__main__":
    main()
