"""Compare adapters with each other and with training every weight, each at several learning rates, on real data.

    python benchmarks/adapters.py [--sets NAME …] [--methods NAME …] [--factors X …] [--seeds N …]
                                  [--data FOLDER] [--runs FILE] [--out FILE]

A learning rate is a factor of the default one of the method and the objective. The first seed tries all; the others the
default and the one that was best with the first. Forgetting is how much the loss rose on texts that the base knew.
What each run came to is kept in the file `--runs`, a line each, so that a sweep that was ended goes on where it was.
Writes a table for each set, and a figure beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from html import escape
from math import isnan, nan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from forgetting import pretrain, write_texts
from machine import describe_machine
from real_data import ROOT, minilm_folder

import bottega
from bottega.runs.store import history

# The sections of a recipe for each method; without `adapter`, every weight is trained.
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, adamw_8bit": {"optim": {"optimizer": "adamw_8bit"}},
    "full, adafactor": {"optim": {"optimizer": "adafactor"}},
    "full, muon": {"optim": {"optimizer": "muon"}},
    "lora r=2": {"adapter": {"rank": 2, "alpha": 4}},
    "lora r=8": {"adapter": {"rank": 8, "alpha": 16}},
    "lora r=32": {"adapter": {"rank": 32, "alpha": 64}},
    "rslora r=32": {"adapter": {"rank": 32, "alpha": 64, "rslora": True}},
    "dora r=8": {"adapter": {"rank": 8, "alpha": 16, "dora": True}},
    "pissa r=8": {"adapter": {"rank": 8, "alpha": 16, "init": "pissa"}},
    "qlora r=8": {"adapter": {"rank": 8, "alpha": 16}, "model": {"quantize": "nf4"}},
    "ia3": {"adapter": {"kind": "ia3"}},
    "vera": {"adapter": {"kind": "vera"}},
    "houlsby": {"adapter": {"kind": "bottleneck"}},
    "pfeiffer": {"adapter": {"kind": "bottleneck", "placement": "pfeiffer"}},
    "prompt": {"adapter": {"kind": "prompt"}},
    "prefix": {"adapter": {"kind": "prefix"}},
}

# Methods that are for decoders.
OF_DECODERS = ("prompt", "prefix")

FACTORS = (1.0, 3.0, 10.0)

# Half the width of a 95 % interval of a mean of n values, in standard errors (Student's t).
T_VALUES = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


@dataclass(frozen=True)
class RealSet:
    """Rows, a model, and what the runs are compared by.

    known  a file of texts that the base knew, by which forgetting is measured; None for a base without a language head
    """

    sections: dict[str, Any]
    metric: str
    higher_is_better: bool
    known: str | None = None

    @property
    def is_decoder(self) -> bool:
        return self.known is not None


@dataclass(frozen=True)
class Result:
    """What a run came to after its last update, on one thread.

    value       the metric on the held-out rows
    forgetting  nats per token by which the loss on known texts rose
    seconds     of the processor
    megabytes   the most that the process had in memory, imports included
    """

    real_set: str
    method: str
    factor: float
    seed: int
    lr: float
    value: float
    forgetting: float
    trained_share: float
    seconds: float
    megabytes: float

    @property
    def cell(self) -> tuple[str, str, float, int]:
        return self.real_set, self.method, self.factor, self.seed


# The sets


def banking(data: Path, folder: Path) -> RealSet:
    """Messages to a bank by 77 intents, and an encoder of 22 million weights."""
    paths = {}
    for side, count in (("train", 1000), ("test", 1000)):
        with (data / f"banking77/{side}.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        random.Random(0).shuffle(rows)
        paths[side] = folder / f"banking_{side}.csv"
        with paths[side].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows[:count]])
    sections = {
        "model": {"base": str(minilm_folder())},
        "data": {
            "train": str(paths["train"]),
            "validation": str(paths["test"]),
            "mapping": {"label": "category"},
            "max_length": 64,
            "too_long": "truncate",
        },
        "objective": {"kind": "classify"},
        "optim": {"epochs": 3, "examples": 16, "schedule": "linear", "warmup": 0.1},
    }
    return RealSet(sections, "accuracy", higher_is_better=True)


def entities(data: Path, folder: Path) -> RealSet:
    """Names in messages, found by an encoder of 22 million weights."""
    paths = {}
    for side, name, count in (("train", "wnut17train", 800), ("validation", "emerging.dev", 500)):
        lines = [line.strip() for line in (data / f"wnut17/{name}.conll").read_text(encoding="utf-8").splitlines()]
        messages = "\n".join(lines).split("\n\n")
        paths[side] = folder / f"names_{side}.conll"
        paths[side].write_text("\n\n".join(messages[:count]) + "\n", encoding="utf-8")
    sections = {
        "model": {"base": str(minilm_folder())},
        "data": {
            "train": str(paths["train"]),
            "validation": str(paths["validation"]),
            "max_length": 128,
            "too_long": "truncate",
        },
        "objective": {"kind": "tag"},
        "optim": {"epochs": 2, "examples": 16, "schedule": "linear", "warmup": 0.1, "weight_decay": 0.01},
    }
    return RealSet(sections, "span_f1", higher_is_better=True)


def stories(data: Path, folder: Path, objective: str, rows: str, epochs: int) -> RealSet:
    """Rows for a decoder that knew short stories, of which it writes some first."""
    base, known = data / "stories260K_hf", folder / "stories.jsonl"
    if not known.exists():
        model = bottega.load_language_model(str(base))
        written = model.generate(["Once upon a time"] * 60, bottega.Sampling(tokens=160, temperature=1.0, seed=1))
        rows_written = [json.dumps({"text": answer.text}) for answers in written for answer in answers]
        known.write_text("\n".join(rows_written) + "\n", encoding="utf-8")
    sections = {
        "model": {"base": str(base), "dtype": "float32"},
        "data": {"train": str(data / rows), "validation": 0.2, "max_length": 480, "seed": 0, "bad_rows": "drop"},
        "objective": {"kind": objective},
        "optim": {"epochs": epochs, "examples": 16},
    }
    # Also of preferences: that a chosen answer is the likelier one is learned in the first updates, at any rate.
    return RealSet(sections, "loss", higher_is_better=False, known=str(known))


def italian(data: Path, folder: Path) -> RealSet:
    """Italian prose for a small decoder that was pre-trained on English plays."""
    own, base = folder / "italian", folder / "italian" / "english"
    kept = own / "texts.json"
    if not kept.exists():
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        written = write_texts(data, own)
        pretrain(own, written[0])
        kept.write_text(json.dumps(written), encoding="utf-8")
    english, texts = json.loads(kept.read_text(encoding="utf-8"))
    sections = {
        "model": {"base": str(base)},
        "data": {"train": texts["train"], "validation": texts["validation"], "max_length": 128},
        "objective": {"kind": "causal"},
        "optim": {"steps": 100, "examples": 24},
    }
    return RealSet(sections, "loss", higher_is_better=False, known=english["validation"])


SETS: dict[str, Callable[[Path, Path], RealSet]] = {
    "instructions": lambda data, folder: stories(data, folder, "sft", "rasbt_instruct_1100/instruction-data.json", 2),
    "banking77, intents": banking,
    "preferences": lambda data, folder: stories(
        data, folder, "dpo", "rasbt_preference_1100/instruction-data-with-preference.json", 1
    ),
    "Italian, continued pre-training": italian,
    "WNUT17, names": entities,
}


# The runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--folder", type=Path, help="keeps what is made of the data; default: a temporary one")
    parser.add_argument("--runs", type=Path, default=Path("/dev/null"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).resolve()
        folder.mkdir(exist_ok=True)
        results, sets = read_results(options.runs), dict[str, RealSet]()
        for seed in options.seeds:
            for name in options.sets:
                real_set = sets[name] = sets.get(name) or _apart(_made, name, options.data.resolve(), folder)
                for method in options.methods:
                    if method not in OF_DECODERS or real_set.is_decoder:
                        factors = _factors(results, name, real_set, method, seed, options)
                        results += _train_missing(results, name, real_set, method, factors, seed, options.runs)
        text = "\n".join(report(sets, results, options.out)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def _made(name: str, data: Path, folder: Path) -> RealSet:
    return SETS[name](data, folder)


def read_results(path: Path) -> list[Result]:
    """What runs came to that ended before; the last line may have been cut."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [Result(**json.loads(line)) for line in lines if line.endswith("\n")]


def _factors(
    results: Sequence[Result], name: str, real_set: RealSet, method: str, seed: int, options: argparse.Namespace
) -> list[float]:
    """All factors with the first seed; with others the default, and the best of the first."""
    if seed == options.seeds[0]:
        return list(options.factors)
    first = [one for one in results if (one.real_set, one.method, one.seed) == (name, method, options.seeds[0])]
    return sorted({1.0, _best(first, real_set)})


def _best(results: Sequence[Result], real_set: RealSet) -> float:
    """The factor with the best value; a run that diverged has none."""
    sound = [one for one in results if not isnan(one.value)]
    sign = 1 if real_set.higher_is_better else -1
    return max(sound, key=lambda one: sign * one.value).factor if sound else 1.0


def _train_missing(
    results: Sequence[Result],
    name: str,
    real_set: RealSet,
    method: str,
    factors: Sequence[float],
    seed: int,
    kept: Path,
) -> list[Result]:
    known, new = {result.cell for result in results}, []
    for factor in factors:
        if (name, method, factor, seed) not in known:
            new.append(_apart(train, name, real_set, method, factor, seed))
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(new[-1])) + "\n")
            print(new[-1], flush=True)
    return new


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, called in a process of its own: it gives its memory back, and is measured alone."""
    # Forked, so that the imports are paid once.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_on_one_thread, (function, *arguments))


def _on_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(1)
    return function(*arguments)


def train(name: str, real_set: RealSet, method: str, factor: float, seed: int) -> Result:
    """Train and validate one."""
    # Two validations, the second after the last update.
    sections = _merged(_merged(real_set.sections, METHODS[method]), {"evaluate": {"every": 10**6}})
    if real_set.known is not None:
        # Only the measuring of a guard: no known text is replayed.
        sections["guard"] = {"share": 0, "stop_when": 99.0, "replay": real_set.known}
    default = bottega.Recipe.parse(sections).lr
    recipe = bottega.Recipe.parse(_merged(sections, {"seed": seed, "optim": {"lr": default * factor}}))
    value, forgetting, share = nan, nan, 0.0
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for event in bottega.train(recipe, out=Path(folder) / "run"):
                if isinstance(event, bottega.Started):
                    share = event.trained_parameters / event.parameters
                elif isinstance(event, bottega.Validated):
                    value = event.loss if real_set.metric == "loss" else event.metrics[real_set.metric]
            general = [event["metrics"]["general_loss"] for event in history(Path(folder) / "run") if _measures(event)]
            forgetting = general[-1] - general[0] if general else nan
        except bottega.BottegaError as error:
            # A learning rate that is too high ends in a loss that is no number, and that is a result, too.
            if type(error).__name__ != "Diverged":
                raise
            value = nan
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lr = recipe.optim.lr or nan
    seconds = time.process_time() - started
    return Result(name, method, factor, seed, lr, value, forgetting, share, seconds, megabytes)


def _measures(event: Mapping[str, Any]) -> bool:
    return event["type"] == "validated" and "general_loss" in event["metrics"]


def _merged(sections: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a recipe with further keys in them."""
    both = {**sections, **more}
    pairs = {key: (sections.get(key), more.get(key)) for key in both}
    return {
        key: {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else both[key]
        for key, (old, new) in pairs.items()
    }


# The report


def report(sets: Mapping[str, RealSet], results: Sequence[Result], out: Path | None) -> Iterator[str]:
    """A table for each set: each method by learning rate, the best one marked."""
    yield from ("# Adapters beside each other, on real data", "", f"{date.today()}, {describe_machine()}.", "")
    yield "Columns: factors of the method's default learning rate; the mean over the seeds, and its 95 % interval where"
    yield "there are several. Seconds of one thread and memory of the process are those of the best learning rate."
    yield ""
    for name, real_set in sets.items():
        own = [result for result in results if result.real_set == name]
        if not own:
            continue
        factors = sorted({result.factor for result in own})
        better = "higher" if real_set.higher_is_better else "lower"
        yield from (f"## {name}", "", f"{real_set.metric} on held-out rows: {better} is better.", "")
        columns = ["method", "trained", *(f"{factor:g}" for factor in factors)]
        columns += ["best lr", *(["forgetting"] if real_set.is_decoder else []), "seconds", "MB"]
        yield f"| {' | '.join(columns)} |"
        yield "|---" * len(columns) + "|"
        for method in METHODS:
            if rows := [result for result in own if result.method == method]:
                yield f"| {' | '.join(_cells(method, rows, factors, real_set))} |"
        yield ""
    if out is not None:
        figure = out.with_suffix(".svg")
        figure.write_text(draw_figure(sets, results), encoding="utf-8")
        yield f"![Each method at its best learning rate, and at the default one]({figure.name})"


def _cells(method: str, rows: Sequence[Result], factors: Sequence[float], real_set: RealSet) -> Iterator[str]:
    best = _best([row for row in rows if row.seed == rows[0].seed], real_set)
    yield from (method, f"{100 * rows[0].trained_share:.2f} %")
    for factor in factors:
        values = [row.value for row in rows if row.factor == factor]
        if not values:
            yield ""
        elif any(map(isnan, values)):
            yield f"{sum(map(isnan, values))} of {len(values)} diverged"
        else:
            text = f"{mean(values):.4g}" + (f" ± {_half_width(values):.2g}" if len(values) > 1 else "")
            yield f"**{text}**" if factor == best else text
    chosen = [row for row in rows if row.factor == best]
    yield f"{chosen[0].lr:.1e}"
    if real_set.is_decoder:
        yield f"{mean(row.forgetting for row in chosen):+.3f}"
    yield f"{mean(row.seconds for row in chosen):.0f}"
    yield f"{mean(row.megabytes for row in chosen):.0f}"


def _half_width(values: Sequence[float]) -> float:
    return T_VALUES[len(values)] * stdev(values) / sqrt(len(values))


def draw_figure(sets: Mapping[str, RealSet], results: Sequence[Result]) -> str:
    """A panel for each set as SVG: of each method a dot at the best learning rate, a ring at the default one."""
    wide, tall, names, row = 300, 46 + 20 * len(METHODS), 130, 20
    shown = [name for name in sets if any(result.real_set == name for result in results)]
    width = names + wide * len(shown) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall + 30}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Methods on real data, each at its best and default learning rate">',
        f'<rect width="{width}" height="{tall + 30}" fill="#fff"/>',
    ]
    for place, method in enumerate(METHODS):
        parts.append(f'<text x="8" y="{50 + row * place}" fill="#222">{escape(method)}</text>')
    for panel, name in enumerate(shown):
        parts += _panel(names + wide * panel, wide - 30, name, sets[name], [r for r in results if r.real_set == name])
    legend = "dot: best learning rate, with the range of its seeds; ring: default learning rate"
    parts.append(f'<text x="8" y="{tall + 20}" fill="#444">{legend}</text>')
    return "".join([*parts, "</svg>\n"])


def _panel(left: float, width: float, name: str, real_set: RealSet, results: Sequence[Result]) -> Iterator[str]:
    sound = [result for result in results if not isnan(result.value)]
    # A learning rate that is far too high or too low would squeeze all others together.
    of_method = {method: [one for one in sound if one.method == method] for method in METHODS}
    best = {method: _best(rows, real_set) for method, rows in of_method.items() if rows}
    points = {
        method: {factor: [r.value for r in of_method[method] if r.factor == factor] for factor in (chosen, 1.0)}
        for method, chosen in best.items()
    }
    flat = [value for ranges in points.values() for values in ranges.values() for value in values]
    low, high = min(flat), max(flat)
    scale = width / ((high - low) or 1)
    arrow = "→" if real_set.higher_is_better else "←"
    yield f'<text x="{left}" y="16" fill="#222" font-weight="bold">{escape(name)}</text>'
    yield f'<text x="{left}" y="32" fill="#666">{real_set.metric}, better {arrow}: {low:.3g} to {high:.3g}</text>'
    for place, method in enumerate(METHODS):
        y = 46 + 20 * place
        yield f'<path d="M{left} {y}h{width}" stroke="#ddd"/>'
        for factor, values in points.get(method, {}).items():
            if not values:
                continue
            ends = [left + (one - low) * scale for one in (min(values), mean(values), max(values))]
            if factor == best[method]:
                yield f'<path d="M{ends[0]:.1f} {y}H{ends[2]:.1f}" stroke="#2463b4" stroke-width="3"/>'
                yield f'<circle cx="{ends[1]:.1f}" cy="{y}" r="4.5" fill="#2463b4"/>'
            if factor == 1.0:
                yield f'<circle cx="{ends[1]:.1f}" cy="{y}" r="6" fill="none" stroke="#d2541b" stroke-width="1.5"/>'


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
