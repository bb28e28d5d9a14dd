"""Should this model be fine-tuned on these rows: `bottega.advise(data, model)`.

A sample of the rows is held out and asked first: the model as it is, after examples, and the nearest known rows. Then
the model is tuned on a twentieth, a tenth and a fifth of the rest, and a learning curve through the three says, with an
interval, what all the rows would bring, and twice as many. It may well say: don't.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from bottega import objectives
from bottega.beginnings import begun, fitting
from bottega.cards import made_of
from bottega.data import sources
from bottega.data.formats import records
from bottega.errors import DataError
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.measure import Evaluation, evaluate
from bottega.loop import train
from bottega.progress import Tell, followed, silent
from bottega.randomness import derive
from bottega.recipe import Recipe, Source, located
from bottega.runs import summary

SHARES = 0.05, 0.1, 0.2
"""Parts of the rows that are tuned on."""

FEWEST = 100
"""Rows below which a twentieth of them teaches nothing."""

DRAWS = 2000
"""Learning curves drawn from what is known of the three points."""

Outcome = Literal["tune", "don't", "unsure"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """What a part of the rows brought: the number that decides, its standard error, seconds of training."""

    rows: int
    value: float
    error: float
    seconds: float


@dataclass(frozen=True)
class Expected:
    """What so many rows would bring, with a 95 % interval, and the seconds of training that would take."""

    rows: int
    value: float
    low: float
    high: float
    seconds: float


@dataclass(frozen=True)
class Counsel:
    """Whether to fine-tune, and why.

    metric    the number that decides; more is better, or less
    without   what can be had without tuning, by contender
    points    what was measured of parts of the rows
    expected  of all rows, and of twice as many
    saved     tokens fewer that a request reads than that of the best prompt; None where no prompt was tried
    repaid    requests after which the training of all rows has paid for itself in time; None where it never does
    licences  (what, name, licence) of the model and the rows
    """

    outcome: Outcome
    sentence: str
    metric: str
    higher: bool
    without: dict[str, float]
    points: Sequence[Point]
    expected: Sequence[Expected]
    saved: float | None
    repaid: float | None
    licences: Sequence[tuple[str, str, str]] = field(default=())

    def document(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def advise(
    data: str | Path,
    model: str | Path,
    *,
    objective: str | None = None,
    rows: int = 300,
    epochs: float = 3.0,
    seed: int = 0,
    tell: Tell | None = None,
) -> Counsel:
    """Whether to tune a model on rows; writes nothing but in a temporary folder.

    objective  what is to be learned; by default what the rows are for
    rows       most of them that are held out and asked, at most a fifth
    epochs     passes over each part
    tell       called with what is being done, how much of it is done, and of how much
    """
    tell, path = tell or silent, located(str(data))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [fields for _, read in sources.rows([Source(path=path)]) for _, fields in read]
        if len(lines) < FEWEST:
            fix = "just tune on them, with validation: 0.2, and ask: bottega evaluate"
            raise DataError(f"{len(lines)} rows are too few to take parts of", where=path, fix=fix)
        random.Random(derive(seed, "advise")).shuffle(lines)
        held = min(rows, len(lines) // 5)
        _write(lines[:held], folder / "asked.jsonl")
        kind = objective or fitting(path)
        rest = _every_label_first(lines[held:], kind)
        found = [
            _tuned(folder, rest[: max(16, round(share * len(rest)))], kind, str(model), epochs, seed, share, tell)
            for share in SHARES
        ]
        last, licences = found[-1][0], made_of(found[-1][1])
    return _counsel(found, last, len(rest), [tuple(part) for part in licences])


def _every_label_first(lines: list[Any], kind: str) -> list[Any]:
    """The rows with one of every label before all others: a part of them must know them all."""
    if not objectives.load(kind).by_label:
        return lines
    placed = (("row", fields) for fields in lines)
    labels = [getattr(record, "label", None) for record in records(placed, objectives.load(kind).reads)]
    seen, first = set[Any](), []
    for number, label in enumerate(labels):
        if label not in seen:
            seen.add(label)
            first.append(number)
    others = sorted(set(range(len(lines))) - set(first))
    return [lines[number] for number in (*first, *others)]


def _write(lines: Sequence[Any], path: Path) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def _tuned(
    folder: Path, lines: Sequence[Any], kind: str, model: str, epochs: float, seed: int, share: float, tell: Tell
) -> tuple[Evaluation, Recipe, Point]:
    """A run on a part of the rows, measured; beside the largest the contenders are asked, which then know as much."""
    part = folder / f"part{len(lines)}"
    part.mkdir()
    _write(lines, part / "rows.jsonl")
    document = yaml.safe_load(begun(kind, model=model, data=str(part / "rows.jsonl")))
    document["data"] |= {"train": str(part / "rows.jsonl"), "validation": str(folder / "asked.jsonl")}
    document["optim"] |= {"epochs": epochs}
    recipe = Recipe.parse({**document, "seed": seed, "evaluate": None, "save": None}, folder=Path.cwd())
    for _ in followed(train(recipe, part / "run"), tell, f"tuning on {len(lines)} rows, {share:.0%} of them"):
        pass
    against: Sequence[str] | None = None if share == SHARES[-1] else ()
    found = evaluate(part / "run", rows=len(lines) + 10**6, against=against, tell=tell)
    one = _deciding(found)
    return found, recipe, Point(len(lines), one.run, _error(one), float(summary(part / "run")["seconds"]))


def _deciding(found: Evaluation) -> Estimate:
    return next(one for one in found.estimates if one.metric == found.verdict.metric)


def _error(one: Estimate) -> float:
    """The standard error of the run's own number: of rows where it is a mean of them, else that of the difference."""
    if one.each is not None and len(one.each[0]) > 1:
        return float(np.nanstd(one.each[0], ddof=1) / math.sqrt(len(one.each[0])))
    return one.error or 0.0


def _counsel(
    found: Sequence[tuple[Evaluation, Recipe, Point]], first: Evaluation, rows: int, licences: Sequence[Any]
) -> Counsel:
    metric = first.verdict.metric or ""
    one, points = _deciding(first), [point for _, _, point in found]
    expected = list(_expected(points, [rows, 2 * rows], most=1.0 if one.higher else None))
    without = {contender.name: same.base for contender in first.contenders if (same := contender.by(metric))}
    known = {name: value for name, value in without.items() if value is not None}
    outcome, sentence = _said(metric, bool(one.higher), known, expected[0])
    prompts = [c.cost for c in first.contenders if c.cost is not None and c.name != first.base]
    longest = max(prompts, key=lambda cost: cost.read, default=None)
    saved = longest.read - first.cost.read if longest is not None and first.cost is not None else None
    repaid = None
    if longest is not None and first.cost is not None and longest.seconds > first.cost.seconds:
        repaid = expected[0].seconds / (longest.seconds - first.cost.seconds)
    return Counsel(outcome, sentence, metric, bool(one.higher), known, points, expected, saved, repaid, licences)


def _said(metric: str, higher: bool, without: dict[str, float], all_: Expected) -> tuple[Outcome, str]:
    if not without:
        return "unsure", f"All rows would bring {metric} {all_.value:.3g}; there is nothing to compare that with."
    best = (max if higher else min)(without, key=lambda name: without[name])
    value = without[best]
    numbers = f"all {all_.rows} rows would bring {metric} {all_.value:.3g} ({all_.low:.3g} to {all_.high:.3g})"
    ahead, behind = (all_.low > value, all_.high < value) if higher else (all_.high < value, all_.low > value)
    if ahead:
        return "tune", f"Tune it: {numbers}, and {best} has {value:.3g}."
    if behind:
        return "don't", f"Don't: {numbers}, and {best} has {value:.3g} without any tuning."
    return "unsure", f"Unsure: {numbers}, and {best} has {value:.3g}; measure more rows, or tune on all and evaluate."


def _expected(points: Sequence[Point], sizes: Sequence[int], *, most: float | None) -> Iterator[Expected]:
    """A power law of what is lacking, drawn many times from what is known of the points.

    What is lacking of the best, or a loss, falls as a power of the rows (Hestness et al. 2017, arXiv 1712.00409).
    """
    n = np.log([point.rows for point in points])
    value, error = (np.array([getattr(point, name) for point in points]) for name in ("value", "error"))
    draw = np.random.default_rng(0).normal(size=(DRAWS, len(points))) * error + value
    seconds = points[-1].seconds / points[-1].rows
    for size in sizes:
        drawn = _curve(n, draw, math.log(size), most)
        low, high = np.quantile(drawn, (0.025, 0.975))
        middle = float(_curve(n, value[None], math.log(size), most)[0])
        yield Expected(size, middle, float(low), float(high), seconds * size)


def _curve(n: Numbers, value: Numbers, at: float, most: float | None) -> Numbers:
    """[D, P] curves through logarithms of rows `n` [P] → [D] what each says at `at`; more rows never do harm."""
    lacking = np.log(np.maximum(value if most is None else most - value, 1e-3))
    apart = n - n.mean()
    slope = np.minimum((lacking * apart).sum(1) / (apart**2).sum(), 0.0)
    end = np.exp(lacking.mean(1) + slope * (at - n.mean()))
    return np.asarray(end if most is None else most - end)
