"""How close an update is to the time of its matmuls alone, and where the rest of its time goes.

    python benchmarks/floor.py [--only NAME …] [--repeats 5] [--out FILE]

One update by torch alone is profiled with the shapes of its matmuls. These matmuls are then computed alone by torch,
in the same process and dtype, alternating with whole updates as they are made; the result is the fraction of an
update's time that they take. It may be more than 1: operators in C++ can be faster than torch. To show that no matmul
is superfluous, their FLOPs are divided by those that the model's shapes require.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from bench import LORA, prepare, recipe
from machine import describe_machine, training_dtype
from stepping import Stepper
from torch.profiler import ProfilerActivity, profile
from workloads import SHAPES, VOCABULARY, documents, instructions, preferences

from bottega.models.native import SWITCH

RANK = 16  # of the adapters
MATMULS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
# The operators in C++ that multiply.
PRODUCTS = ("bottega::multiply", "bottega::linear")
# Pointwise: norms, rotations, gates, sums, copies.
PARTS = ("products", "attention", "head and loss", "pointwise", "optimizer", "Python")


@dataclass(frozen=True)
class Op:
    """An operation of an update: name, shapes of its inputs, number of calls, total seconds without children."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    count: int
    seconds: float

    @property
    def factors(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the two matrices of a matmul."""
        # The operand of an addmm that is added comes first.
        first = 1 if "addmm" in self.name else 0
        return self.shapes[first], self.shapes[first + 1]

    @property
    def flops(self) -> float:
        left, right = self.factors
        return 2.0 * self.count * torch.Size(left).numel() * right[-1]

    @property
    def part(self) -> str:
        sizes = {size for shape in self.shapes for size in shape}
        if VOCABULARY in sizes:
            return "head and loss"
        if self.name in ("aten::bmm", "aten::baddbmm") or "softmax" in self.name or "attend" in self.name:
            return "attention"
        return "products" if self.name in MATMULS or self.name.startswith(PRODUCTS) else "pointwise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The time of an update and of its matmuls alone",
        "",
        f"{date.today()}, {describe_machine()}; 135 M shapes, {training_dtype()}. "
        f"Medians of {options.repeats} alternating repeats.",
        "",
        "| workload | tokens | update, ms | matmuls alone, ms | fraction | FLOPs / required FLOPs | "
        + " | ".join(PARTS)
        + " |",
        "|---" * (6 + len(PARTS)) + "|",
    ]
    for name in options.only:
        lines.append(format_row(name, WORKLOADS[name], options.repeats))
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", "The last columns are fractions of one profiled update; profiling slows it.", ""])
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def format_row(name: str, make_stepper: Callable[[Path], Stepper], repeats: int) -> str:
    """One workload's row of the table."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {SWITCH: "0"}):
        plain = make_stepper(Path(folder))
        plain.step(0)
        matmuls = [op for op in profile_update(plain)[0] if op.name in MATMULS]
        del plain
    with tempfile.TemporaryDirectory() as folder:
        stepper = make_stepper(Path(folder))
    for _ in range(2):
        stepper.step(0)
    ops, phases = profile_update(stepper)
    run_matmuls = replay(matmuls, stepper.run.choices.dtype)
    run_matmuls()
    pairs = [(stepper.step(0), measure_seconds(run_matmuls)) for _ in range(repeats)]
    step, floor = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    fraction = median(floor / step for step, floor in pairs)
    seconds = Counter[str]()
    for op in ops:
        seconds[op.part] += op.seconds
    seconds["optimizer"] = phases["update"]
    seconds["Python"] = phases["all"] - sum(seconds.values())
    parts = " | ".join(f"{seconds[part] / phases['all']:.0%}" for part in PARTS)
    flops_ratio = sum(op.flops for op in matmuls) / required_flops(stepper)
    times = f"{1e3 * step:.0f} | {1e3 * floor:.0f} | {fraction:.2f}"
    return f"| {name} | {stepper.tokens(0)} | {times} | {flops_ratio:.2f} | {parts} |"


def profile_update(stepper: Stepper) -> tuple[list[Op], dict[str, float]]:
    """(operations of one update before the weights change, seconds of the whole and of the optimizer)."""
    engine, update = stepper.run.engine, stepper.run.engine.update
    profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    seconds: dict[str, float] = {}

    def stop_before_update(*arguments: Any, **options: Any) -> float:
        profiler.stop()
        started = time.perf_counter()
        norm = update(*arguments, **options)
        seconds["update"] = time.perf_counter() - started
        return norm

    engine.update = stop_before_update  # type: ignore[method-assign]
    profiler.start()
    seconds["all"] = stepper.step(0)
    engine.update = update  # type: ignore[method-assign]
    return [
        Op(event.key, tuple(map(tuple, event.input_shapes)), event.count, event.self_cpu_time_total / 1e6)
        for event in profiler.key_averages(group_by_input_shape=True)
        if event.key.startswith(("aten::", "bottega::"))
    ], seconds


def replay(matmuls: list[Op], dtype: torch.dtype) -> Callable[[], None]:
    """A function that computes all matmuls, on random tensors made beforehand."""
    pairs = [
        (torch.randn(left, dtype=dtype), torch.randn(right, dtype=dtype))
        for left, right in (op.factors for op in matmuls)
    ]

    def run_matmuls() -> None:
        for op, (left, right) in zip(matmuls, pairs, strict=True):
            for _ in range(op.count):
                torch.matmul(left, right)

    return run_matmuls


def measure_seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def required_flops(stepper: Stepper) -> float:
    """FLOPs that the model's shapes require: each matrix forward, and backward for what is trained."""
    shape, run = SHAPES["135m"], stepper.run
    trained = run.recipe.adapter is None
    tokens = sum(len(batch.tokens) for batch in stepper.batches[0])
    predictions = sum(len(batch.at) for batch in stepper.batches[0])
    width, inner, layers = (int(shape[name]) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads, groups = int(shape["num_attention_heads"]), int(shape["num_key_value_heads"])
    narrow = width // heads * groups
    sides = [(width, width), (width, narrow), (width, narrow), (width, width), *[(width, inner)] * 3]
    matrices = 2.0 * tokens * layers * sum(left * right for left, right in sides)
    adapters = 0.0 if trained else 6.0 * tokens * layers * RANK * sum(left + right for left, right in sides)
    # The inputs of a frozen first layer come from the frozen embedding and need no gradient.
    unneeded = 0.0 if trained else 2.0 * tokens * width * (width + 2 * narrow + 3 * RANK)
    pairs = sum(_pairs(batch.nodes) for batch in stepper.batches[0])
    attention = 6.0 * 2.0 * pairs * width * layers
    head = 2.0 * predictions * width * VOCABULARY
    return (3 if trained else 2) * (matrices + head) + adapters + attention - unneeded


def _pairs(nodes: Any) -> float:
    """Query-key pairs of a batch, including the masked ones within each node."""
    lengths = nodes.end - nodes.start
    keys = lengths.copy()
    for node in range(len(nodes)):
        if nodes.parent[node] >= 0:
            keys[node] += keys[nodes.parent[node]]
    return float((lengths * keys).sum())


def sft(folder: Path) -> Stepper:
    prepare(folder, instructions(8), "135m")
    return Stepper(folder, recipe("sft", 9, 8, LORA), 1)


def full(folder: Path) -> Stepper:
    prepare(folder, instructions(8), "135m")
    return Stepper(folder, recipe("sft", 9, 8), 1)


def dpo(folder: Path) -> Stepper:
    prepare(folder, preferences(4), "135m")
    return Stepper(folder, recipe("dpo", 9, 4, LORA), 1)


def pretraining(folder: Path) -> Stepper:
    prepare(folder, documents(4, 513), "135m")
    return Stepper(folder, recipe("causal", 9, 4, shape="135m"), 1)


WORKLOADS: dict[str, Callable[[Path], Stepper]] = {
    "SFT, LoRA": sft,
    "DPO, LoRA": dpo,
    "SFT, full fine-tuning": full,
    "pre-training": pretraining,
}


if __name__ == "__main__":
    main()
