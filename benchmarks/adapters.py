"""Compare adapters with each other and with training every weight, each at several learning rates, on real data.

    python benchmarks/adapters.py [--sets NAME …] [--methods NAME …] [--factors X …] [--seeds N …]
                                  [--data FOLDER] [--runs FILE] [--out FILE]

A learning rate is a factor of the one that the objective has for LoRA, or for every weight. What each run came to is
kept in the file `--runs`, a line each, so that a sweep that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from machine import describe_machine
from real_data import ROOT, minilm_folder

import bottega

# The sections of a recipe for each method; `full` trains every weight.
METHODS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora r=2": {"rank": 2, "alpha": 4},
    "lora r=8": {"rank": 8, "alpha": 16},
    "lora r=32": {"rank": 32, "alpha": 64},
    "rslora r=32": {"rank": 32, "alpha": 64, "rslora": True},
    "dora r=8": {"rank": 8, "alpha": 16, "dora": True},
    "ia3": {"kind": "ia3"},
    "vera": {"kind": "vera"},
    "houlsby": {"kind": "bottleneck"},
    "pfeiffer": {"kind": "bottleneck", "placement": "pfeiffer"},
    "prompt": {"kind": "prompt"},
}

SETS = ("banking77", "instructions")

# Factors of the objective's learning rate for LoRA, or for every weight.
FACTORS = (0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class RealSet:
    """Rows, a model, and what the runs are compared by. `excluded`: methods that are not for such models."""

    sections: dict[str, Any]
    metric: str
    higher_is_better: bool
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a run came to; `value` is the metric on the held-out rows after the last update."""

    real_set: str
    method: str
    factor: float
    seed: int
    lr: float
    value: float
    trained_share: float
    seconds: float

    @property
    def cell(self) -> tuple[str, str, float, int]:
        return self.real_set, self.method, self.factor, self.seed


def real_sets(data: Path) -> dict[str, RealSet]:
    """The sets by their names."""
    data = data.resolve()
    return {
        "banking77": RealSet(
            {
                "model": {"base": str(minilm_folder())},
                "data": {
                    "train": str(data / "banking77/train.csv"),
                    "validation": str(data / "banking77/test.csv"),
                    "mapping": {"label": "category"},
                    "max_length": 128,
                    "too_long": "truncate",
                },
                "objective": {"kind": "classify"},
                "optim": {"epochs": 1, "examples": 32, "schedule": "linear", "warmup": 0.1},
            },
            metric="accuracy",
            higher_is_better=True,
            excluded=("prompt",),
        ),
        "instructions": RealSet(
            {
                "model": {"base": str(data / "stories260K_hf"), "dtype": "float32"},
                "data": {
                    "train": str(data / "rasbt_instruct_1100/instruction-data.json"),
                    "validation": 0.2,
                    "max_length": 480,
                },
                "objective": {"kind": "sft"},
                "optim": {"epochs": 2, "examples": 16},
            },
            metric="loss",
            higher_is_better=False,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=Path("/dev/null"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sets, results = real_sets(options.data), read_results(options.runs)
    known = {result.cell for result in results}
    with options.runs.open("a", encoding="utf-8") as kept:
        for name, method, factor, seed in cells(sets, options):
            if (name, method, factor, seed) not in known:
                results.append(train(name, sets[name], method, factor, seed))
                kept.write(json.dumps(asdict(results[-1])) + "\n")
                kept.flush()
                print(results[-1], flush=True)
    text = "\n".join(report(sets, results)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """What runs came to that ended before; the last line may have been cut."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [Result(**json.loads(line)) for line in lines if line.endswith("\n")]


def cells(sets: dict[str, RealSet], options: argparse.Namespace) -> Iterator[tuple[str, str, float, int]]:
    """What is to be run: all methods with one seed before the next seed."""
    for seed in options.seeds:
        for name in options.sets:
            for method in options.methods:
                if method not in sets[name].excluded:
                    yield from ((name, method, factor, seed) for factor in options.factors)


def train(name: str, real_set: RealSet, method: str, factor: float, seed: int) -> Result:
    """Train and validate one."""
    adapter = METHODS[method]
    sections = {**real_set.sections, **({} if adapter is None else {"adapter": adapter})}
    default = bottega.Recipe.parse(sections).objective.lr[0 if adapter is None else 1]
    recipe = bottega.Recipe.parse({**sections, "seed": seed, "optim": {**sections["optim"], "lr": default * factor}})
    value, share, started = float("nan"), 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for event in bottega.train(recipe, out=Path(folder) / "run"):
                if isinstance(event, bottega.Started):
                    share = event.trained_parameters / event.parameters
                elif isinstance(event, bottega.Validated):
                    value = event.loss if real_set.metric == "loss" else event.metrics[real_set.metric]
        except bottega.BottegaError as error:
            # A learning rate that is too high ends in a loss that is no number, and that is a result, too.
            if type(error).__name__ != "Diverged":
                raise
            value = float("nan")
    return Result(name, method, factor, seed, default * factor, value, share, time.perf_counter() - started)


def report(sets: dict[str, RealSet], results: list[Result]) -> Iterator[str]:
    """A table for each set: the mean of each method over the seeds, by learning rate, the best one marked."""
    yield from ("# Adapters beside each other, on real data", "", f"{date.today()}, {describe_machine()}.", "")
    yield from ("Factors: of the learning rate that the objective has for LoRA, or for every weight.", "")
    for name, real_set in sets.items():
        own = [result for result in results if result.real_set == name]
        if not own:
            continue
        factors = sorted({result.factor for result in own})
        yield from (
            f"## {name}",
            "",
            f"{real_set.metric} on held-out rows; columns: factors of the learning rate.",
            "",
        )
        yield "| method | trained | " + " | ".join(f"{factor:g}" for factor in factors) + " | best lr | seconds |"
        yield "|---|" + "---|" * (len(factors) + 3)
        for method in METHODS:
            rows = [result for result in own if result.method == method]
            if rows:
                yield _line(method, rows, factors, real_set)
        yield ""


def _line(method: str, rows: list[Result], factors: list[float], real_set: RealSet) -> str:
    values = defaultdict[float, list[float]](list)
    for row in rows:
        values[row.factor].append(row.value)
    means = {factor: mean(found) for factor, found in values.items() if not any(map(isnan, found))}
    best = (max if real_set.higher_is_better else min)(means, key=means.__getitem__, default=None)
    lr = next((row.lr for row in rows if row.factor == best), float("nan"))

    def shown(factor: float) -> str:
        if factor not in values:
            return ""
        spread = values[factor]
        if factor not in means:
            return f"{sum(map(isnan, spread))} of {len(spread)} diverged"
        text = f"{means[factor]:.4g}"
        text += f" ({min(spread):.4g} to {max(spread):.4g})" if len(spread) > 1 else ""
        return f"**{text}**" if factor == best else text

    share = f"{100 * rows[0].trained_share:.2f} %"
    middle = " | ".join(shown(factor) for factor in factors)
    return f"| {method} | {share} | {middle} | {lr:.1e} | {mean(row.seconds for row in rows):.1f} |"


if __name__ == "__main__":
    main()
