"""How close a step is to the matmuls it cannot avoid, and where the rest of its time goes.

    python benchmarks/floor.py [--only NAME …] [--repeats 5] [--out FILE]

One step is recorded with the shapes of all its matmuls; these are done again by themselves, in the same process and
dtype, in turn with whole steps. The share of that time in a step's is what is compared with the target. That none of
them could have been saved is shown by counting: the arithmetic they do, over what the model's shapes ask for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench import LORA, prepare, recipe
from machine import described
from stepping import Stepper
from torch.profiler import ProfilerActivity, profile
from workloads import SHAPES, VOCABULARY, documents, instructions, preferences

RANK = 16
MATMULS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
KINDS = ("weights", "attention", "head and loss", "adapter", "pointwise", "optimiser", "Python")


@dataclass(frozen=True)
class Op:
    """An operation of a step: its name, the shapes of its inputs, how often, and its own seconds in all."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    count: int
    seconds: float

    @property
    def factors(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The two matrices of a matmul; what it is added to comes first where there is such a thing."""
        first = 1 if "addmm" in self.name else 0
        return self.shapes[first], self.shapes[first + 1]

    @property
    def flops(self) -> float:
        left, right = self.factors
        return 2.0 * self.count * torch.Size(left).numel() * right[-1]

    @property
    def kind(self) -> str:
        sizes = {size for shape in self.shapes for size in shape}
        if VOCABULARY in sizes:
            return "head and loss"
        if self.name in ("aten::bmm", "aten::baddbmm") or "softmax" in self.name:
            return "attention"
        if self.name in MATMULS:
            return "adapter" if RANK in sizes else "weights"
        return "pointwise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# A step and the matmuls it cannot avoid",
        "",
        f"{date.today()}, {described()}; 135 M shapes, bfloat16. Medians of {options.repeats} alternating repeats.",
        "",
        "| work | tokens | step, ms | bare matmuls, ms | share | arithmetic done over needed | "
        + " | ".join(KINDS)
        + " |",
        "|---" * (6 + len(KINDS)) + "|",
    ]
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measured(name, WORKS[name](Path(folder)), options.repeats))
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", "The last columns are shares of one recorded step, which recording slows.", ""])
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def measured(name: str, stepper: Stepper, repeats: int) -> str:
    """The line of the table for one work."""
    for _ in range(2):
        stepper.step(0)
    ops, phases = recorded(stepper)
    matmuls = [op for op in ops if op.name in MATMULS]
    bare = replay(matmuls, stepper.run.choices.dtype)
    bare()
    pairs = [(stepper.step(0), timed(bare)) for _ in range(repeats)]
    step, floor = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    share = median(floor / step for step, floor in pairs)
    spent = Counter[str]()
    for op in ops:
        spent[op.kind] += op.seconds
    spent["optimiser"] = phases["update"]
    spent["Python"] = phases["all"] - sum(spent.values())
    parts = " | ".join(f"{spent[kind] / phases['all']:.0%}" for kind in KINDS)
    needed = sum(op.flops for op in matmuls) / necessary(stepper)
    times = f"{1e3 * step:.0f} | {1e3 * floor:.0f} | {share:.2f}"
    return f"| {name} | {stepper.tokens(0)} | {times} | {needed:.2f} | {parts} |"


def recorded(stepper: Stepper) -> tuple[list[Op], dict[str, float]]:
    """The operations of one step up to its update of the weights, and the seconds of the parts of it."""
    engine, update = stepper.run.engine, stepper.run.engine.update
    recorder = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    seconds: dict[str, float] = {}

    def stopped(*arguments: Any, **options: Any) -> float:
        recorder.stop()
        started = time.perf_counter()
        norm = update(*arguments, **options)
        seconds["update"] = time.perf_counter() - started
        return norm

    engine.update = stopped  # type: ignore[method-assign]
    recorder.start()
    seconds["all"] = stepper.step(0)
    engine.update = update  # type: ignore[method-assign]
    return [
        Op(event.key, tuple(map(tuple, event.input_shapes)), event.count, event.self_cpu_time_total / 1e6)
        for event in recorder.key_averages(group_by_input_shape=True)
        if event.key.startswith("aten::")
    ], seconds


def replay(matmuls: list[Op], dtype: torch.dtype) -> Callable[[], None]:
    """All the products again, of numbers at rest."""
    pairs = [
        (torch.randn(left, dtype=dtype), torch.randn(right, dtype=dtype))
        for left, right in (op.factors for op in matmuls)
    ]

    def bare() -> None:
        for op, (left, right) in zip(matmuls, pairs, strict=True):
            for _ in range(op.count):
                torch.matmul(left, right)

    return bare


def timed(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def necessary(stepper: Stepper) -> float:
    """Arithmetic of a step as the model's shapes ask for it: each matrix forward, and backward for what is trained."""
    shape, run = SHAPES["135m"], stepper.run
    trained = run.recipe.adapter is None
    tokens = sum(len(batch.tokens) for batch in stepper.batches[0])
    predictions = sum(len(batch.at) for batch in stepper.batches[0])
    width, inner, layers = (int(shape[name]) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads, groups = int(shape["num_attention_heads"]), int(shape["num_key_value_heads"])
    narrow = width // heads * groups
    sides = [(width, width), (width, narrow), (width, narrow), (width, width), *[(width, inner)] * 3]
    matrices = 2.0 * tokens * layers * sum(one * other for one, other in sides)
    adapters = 0.0 if trained else 6.0 * tokens * layers * RANK * sum(one + other for one, other in sides)
    # A frozen first layer's inputs are the embedding, which learns nothing.
    unneeded = 0.0 if trained else 2.0 * tokens * width * (width + 2 * narrow + 3 * RANK)
    pairs = sum(_pairs(batch.nodes) for batch in stepper.batches[0])
    attention = 6.0 * 2.0 * pairs * width * layers
    head = 2.0 * predictions * width * VOCABULARY
    return (3 if trained else 2) * (matrices + head) + adapters + attention - unneeded


def _pairs(nodes: Any) -> float:
    """Query-key pairs of a batch, what a node's own later tokens hide included."""
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


WORKS: dict[str, Callable[[Path], Stepper]] = {
    "SFT, LoRA": sft,
    "DPO, LoRA": dpo,
    "SFT, every weight": full,
    "pre-training": pretraining,
}


if __name__ == "__main__":
    main()
