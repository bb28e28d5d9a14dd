"""Should this model be fine-tuned on these rows: `bottega.advise(data, model)`.

A sample of the rows is held out. The model is tuned on a twentieth of the rest until it has learned what there is in
them, goes on with a tenth, and then with a fifth, and a learning curve through the three says, with an interval, what
all the rows would bring, and twice as many. Beside that stands what can be had without tuning: of the model as it is,
after examples, and of the nearest known rows. It may well say: don't.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from bottega import objectives
from bottega.data.formats import parse_rows
from bottega.data.reader import read_rows
from bottega.data.sampler import DEFAULT_EXAMPLES
from bottega.errors import DataError, RunError
from bottega.evaluation.contamination import find_leaked_rows
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation, evaluate
from bottega.metrics.catalog import metric_label
from bottega.planning.init import init, suggest_objective
from bottega.progress import StatusCallback, ignore_status, update_reporter
from bottega.recipe.files import resolve_source_path
from bottega.recipe.schema import Layout, Recipe, Source
from bottega.records import Labelled, Multilabelled, Record, Tagged
from bottega.seeding import derive
from bottega.suggestions import join_names
from bottega.training.model_card import made_of
from bottega.training.trials import run_trial, vary

SMALLEST, TIMES = 0.05, (1, 2, 4)
"""The smallest part of the rows that is tuned on, an update's worth at least, and how many times that each part is."""

FEWEST = 100
"""Rows below which a twentieth of them teaches nothing."""

FEWEST_UPDATES = 200
"""Updates that every part may take, however few rows there are."""

WARMUP = 20
"""Updates to the full rate, which then stays: it is not known beforehand when a part is learned."""

LOOKS = 20
"""Looks at the loss while a part is learned, at the most; `PATIENCE` without a better one end it."""

PATIENCE = 2

WATCHED = 200
"""Rows, at the most, that say when a part is learned."""

ANSWERS = 50
"""Answers that are written out to see what a request takes."""

EVERY = 10**9
"""More rows than there are."""

DRAWS = 4000
"""Learning curves drawn from what is known of the three points."""

LEAST = 1e-3
"""The least share that is taken to be wrong, or right: a few hundred rows show no less."""

FLOOR, NONE = 0.9, 0.5
"""Of what is wrong at the best point, the part that stays however many rows there are is drawn evenly from -NONE to
FLOOR, and is nothing below nothing: simulated curves without a floor then lie in the interval as often as others."""

Placed = tuple[str, dict[str, Any]]
"""Where a row stands, and its fields."""

Outcome = Literal["tune", "don't", "inconclusive"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """What a part of the rows brought: the number that decides, its standard error, and updates and seconds so far.

    done  whether all was learned that there is in it, before the updates it may take ran out
    """

    rows: int
    value: float
    error: float
    updates: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class Expected:
    """What so many rows would bring, with a 95 % interval, and the passes and seconds of training that would take."""

    rows: int
    value: float
    low: float
    high: float
    passes: float
    seconds: float


@dataclass(frozen=True)
class Counsel:
    """Whether to fine-tune, and why.

    kind      the objective
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
    kind: str
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
    mapping: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    rows: int = 300,
    epochs: float = 3.0,
    seed: int = 0,
    out: str | Path | None = None,
    tell: StatusCallback | None = None,
    so_far: Callable[[Counsel], None] | None = None,
) -> Counsel:
    """Whether to tune a model on rows.

    objective  what is to be learned; by default what the rows are for
    mapping    our name of a field: the file's
    layout     how the file is laid out, where it does not say so itself
    rows       most of them that are held out and asked, at most a fifth
    epochs     passes over all rows that the three parts together may take, where that is no handful of updates
    out        a new folder in which the parts and the runs on them stay; by default nothing does
    tell       called with what is being done, how much of it is done, and of how much
    so_far     called after each part but the last with what has been measured: for one who has no time for the rest
    """
    tell, path = tell or ignore_status, resolve_source_path(str(data))
    if out is not None and Path(out).exists():
        raise RunError("is there already", where=str(out), fix="name a new folder: --out")
    with contextlib.ExitStack() as held:
        folder = Path(out or held.enter_context(tempfile.TemporaryDirectory())).absolute()
        lines = list(_rows(path, mapping or {}, layout or Layout()))
        random.Random(derive(seed, "advise")).shuffle(lines)
        folder.mkdir(parents=True, exist_ok=True)
        study = Study(
            folder,
            objective or suggest_objective(str(_write(folder / "known.jsonl", lines[:1]))),
            str(model),
            seed,
            tell,
        )
        parts, rest = study.divide(lines, rows, path)
        most = math.ceil(epochs * len(rest) / DEFAULT_EXAMPLES / len(parts))
        found: list[Learned] = []
        for part in study.learned(parts, max(most, FEWEST_UPDATES)):
            found.append(part)
            if so_far is not None and len(found) < len(parts):
                so_far(_unfinished(study.kind, found, len(parts)))
        document = found[0].recipe.document()
    licences = made_of(Recipe.parse({**document, "data": {"train": path}, "evaluate": None}))
    return _counsel(study.kind, found, len(rest), [tuple(part) for part in licences])


def _rows(path: str, mapping: Mapping[str, str], layout: Layout) -> Iterator[Placed]:
    """Where each row stands, and its fields by our names; a DataError for one that is broken, or lacks a field."""
    for where, fields in read_rows([Source(path=path, **layout.model_dump())]):
        if isinstance(fields, DataError):
            raise fields
        lost = next((theirs for theirs in mapping.values() if theirs not in fields), None)
        if lost is not None:
            raise DataError(f"no field {lost}", where=where, fix=f"it has {join_names(fields)}")
        yield where, {**fields, **{ours: fields[theirs] for ours, theirs in mapping.items()}}


def _write(path: Path, lines: Sequence[Placed]) -> Path:
    path.write_text("".join(json.dumps(fields, default=str) + "\n" for _, fields in lines), encoding="utf-8")
    return path


class Learned(NamedTuple):
    """A run on a part of the rows, measured: updates and seconds until it learned no more."""

    rows: int
    run: Path
    recipe: Recipe
    evaluation: Evaluation
    updates: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class Study:
    """Runs on parts of the same rows, all watched with some others and asked about a third lot.

    folder  holds those rows, and the runs
    kind    what is to be learned: an objective
    """

    folder: Path
    kind: str
    model: str
    seed: int
    tell: StatusCallback

    def divide(self, lines: Sequence[Placed], rows: int, path: str) -> tuple[list[Sequence[Placed]], Sequence[Placed]]:
        """(parts, all that can be learned from): first rows to ask about are laid aside, and some to watch with.

        Every part has every label, and no row that is asked about stands in what can be learned.
        """
        first = self._of_every_label(lines)
        bearers, kept = [lines[number] for number in first], set(first)
        others = [line for number, line in enumerate(lines) if number not in kept]
        asked = min(rows, len(lines) // 5)
        watched = asked + min(WATCHED, len(lines) // 10)
        rest = [*bearers, *others[watched:]]
        smallest = max(DEFAULT_EXAMPLES, len(bearers), round(SMALLEST * len(rest)))
        if len(lines) < FEWEST or TIMES[-1] * smallest > len(rest):
            labels = f" with {len(bearers)} labels" if bearers else ""
            fix = "just tune on them, with validation: 0.2, and ask: bottega evaluate"
            raise DataError(f"{len(lines)} rows{labels} are too few to take parts of", where=path, fix=fix)
        leaked = find_leaked_rows(list(self._records(others[:asked])), self._records(rest))
        _write(self._path("asked"), [line for place, line in enumerate(others[:asked]) if place not in leaked])
        _write(self._path("watched"), others[asked:watched])
        _write(self._path("known"), rest)
        return [rest[: times * smallest] for times in TIMES], rest

    def _records(self, lines: Sequence[Placed]) -> Iterator[Record]:
        return parse_rows(iter(lines), objectives.load(self.kind).reads)

    def _of_every_label(self, lines: Sequence[Placed]) -> list[int]:
        """The numbers of the first row with each label; none where rows have no labels."""
        objective = objectives.load(self.kind)
        if not objective.stratify and objective.head != "token":
            return []
        first: dict[str, int] = {}
        for number, record in enumerate(self._records(lines)):
            for label in labels_of(record):
                first.setdefault(label, number)
        return sorted(set(first.values()))

    def learned(self, parts: Sequence[Sequence[Placed]], updates: int) -> Iterator[Learned]:
        """A run on each part, going on from the one before: what that learned need not be learned again.

        updates  the most each may take
        """
        before: Learned | None = None
        for part in parts:
            before = self.tuned(part, updates, before, contest=before is None)
            yield before

    def tuned(
        self, lines: Sequence[Placed], updates: int, before: Learned | None = None, *, contest: bool = False
    ) -> Learned:
        """A run on these rows that ends when it learns no more, measured.

        before   what it goes on from; by default the model
        contest  ask all that can do without tuning as well; it knows every row that is not held out
        """
        name = f"part{len(lines)}"
        run, data = self.folder / name, _write(self._path(name), lines)
        recipe = self._recipe(data, updates, before)
        trial = run_trial(recipe, run, on_event=update_reporter(self.tell, f"tuning on {len(lines):,} rows"))
        assert trial.finished is not None
        last, weights_from = trial.finished.step, trial.finished.weights_from
        found = evaluate(
            run,
            str(self._path("asked")),
            rows=EVERY,
            against=None if contest else (),
            answers=ANSWERS if contest else 0,
            known=[str(self._path("known"))],
            tell=self.tell,
        )
        updates_kept = [update for update in trial.updates if update.step <= weights_from]
        seconds = sum(update.seconds for update in updates_kept)
        return Learned(len(lines), run, recipe, found, len(updates_kept), seconds, done=weights_from < last)

    def _recipe(self, data: Path, updates: int, before: Learned | None) -> Recipe:
        """What `bottega init` writes, until it is learned."""
        document = yaml.safe_load(init(self.kind, model=self.model, data=str(data)))
        overrides: dict[str, Any] = {"seed": self.seed, "save": None}
        if before is not None and "adapter" in document:
            overrides["adapter"] = {"from": str(before.run)}
        elif before is not None:
            overrides["model.base"] = str(before.run)
        overrides |= {"data.train": str(data), "data.validation": str(self._path("watched"))}
        # A constant rate: in which update a part is learned, and the rate should be low, is not known beforehand.
        overrides |= {"optim.epochs": None, "optim.steps": updates, "optim.schedule": "constant"}
        overrides["optim.warmup"] = WARMUP
        overrides["evaluate"] = {"every": max(WARMUP, updates // LOOKS), "stop_after": PATIENCE}
        return Recipe.parse(vary(document, overrides), folder=Path.cwd())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


def labels_of(record: Record) -> Sequence[str]:
    """The classes of a row, or of what is marked in it."""
    if isinstance(record, Labelled):
        return [record.label]
    if isinstance(record, Multilabelled):
        return record.labels
    return [span.label for span in record.spans] if isinstance(record, Tagged) else []


def _points(found: Sequence[Learned], metric: str) -> Iterator[Point]:
    """What the runs brought, with the updates and seconds of all that each stands on."""
    updates, seconds = 0, 0.0
    for one in found:
        updates, seconds = updates + one.updates, seconds + one.seconds
        own = _number(one.evaluation, metric)
        yield Point(one.rows, own.run, _error(own), updates, seconds, one.done)


def _number(found: Evaluation, metric: str) -> Estimate:
    return next(one for one in found.estimates if one.metric == metric)


def _error(one: Estimate) -> float:
    """The standard error of the run's own number: of rows where it is a mean of them, else that of the difference."""
    each = None if one.each is None else one.each[0][~np.isnan(one.each[0])]
    if each is not None and len(each) > 1:
        return float(each.std(ddof=1) / math.sqrt(len(each)))
    return one.error or 0.0


def _unfinished(kind: str, found: Sequence[Learned], parts: int) -> Counsel:
    """What has been measured of the first parts, without advice."""
    first = found[0].evaluation
    metric = first.verdict.metric or ""
    without = {
        one.name: same.base for one in first.contenders if (same := one.estimate(metric)) and same.base is not None
    }
    sentence = f"{len(found)} of {parts} parts were tuned on: too little to say what all rows would bring."
    higher = bool(_number(first, metric).higher)
    return Counsel(
        "inconclusive", sentence, kind, metric, higher, without, list(_points(found, metric)), [], None, None
    )


def _counsel(kind: str, found: Sequence[Learned], rows: int, licences: Sequence[Any]) -> Counsel:
    first = found[0].evaluation
    metric = first.verdict.metric or ""
    higher = bool(_number(first, metric).higher)
    points = list(_points(found, metric))
    expected = list(_expected(points, [rows, 2 * rows], share=higher))
    without = {contender.name: same.base for contender in first.contenders if (same := contender.estimate(metric))}
    known = {name: value for name, value in without.items() if value is not None}
    # An earlier part that was not learned to the end makes the forecast too good at most, so that "don't" holds.
    outcome, sentence = _said(metric, higher, known, expected[0], done=points[-1].done)
    prompts = [c.cost for c in first.contenders if c.cost is not None and c.name != first.base]
    longest = max(prompts, key=lambda cost: cost.read, default=None)
    saved = longest.read - first.cost.read if longest is not None and first.cost is not None else None
    repaid = None
    if longest is not None and first.cost is not None and longest.seconds > first.cost.seconds:
        repaid = expected[0].seconds / (longest.seconds - first.cost.seconds)
    return Counsel(outcome, sentence, kind, metric, higher, known, points, expected, saved, repaid, licences)


def _said(
    metric: str, higher: bool, without: dict[str, float], all_: Expected, *, done: bool = True
) -> tuple[Outcome, str]:
    numbers = (
        f"all {all_.rows} rows would bring {metric_label(metric)} {all_.value:.3g} ({all_.low:.3g} to {all_.high:.3g})"
    )
    if not without:
        return "inconclusive", f"Inconclusive: {numbers}; there is nothing to compare that with."
    best = (max if higher else min)(without, key=lambda name: without[name])
    value = without[best]
    ahead, behind = (all_.low > value, all_.high < value) if higher else (all_.high < value, all_.low > value)
    if ahead:
        return "tune", f"Tune it: {numbers}, and {best} has {value:.3g}."
    if not done:
        said = "or better, as the parts were not learned to the end; give more --epochs."
        return "inconclusive", f"Inconclusive: {numbers} {said}"
    if behind:
        return "don't", f"Don't: {numbers}, and {best} has {value:.3g} without any tuning."
    more = f"and {best} has {value:.3g}; measure more rows, or tune on all and evaluate."
    return "inconclusive", f"Inconclusive: {numbers}, {more}"


def _expected(points: Sequence[Point], sizes: Sequence[int], *, share: bool) -> Iterator[Expected]:
    """A power law of what is wrong, down to a floor, drawn many times from what is known of the points.

    A loss, or the odds that an answer is wrong where the number is a share of right ones, falls as a power of the rows
    (Hestness et al. 2017, arXiv 1712.00409, of errors, which odds are when they are few) towards what no number of them
    brings. Three points do not tell where that floor lies: it is drawn as well, none for a third, for the rest up to
    just below the best of them. Where a part was not learned to the end, what came after it may be owed to more
    updates and not to more rows: the interval then reaches from the last point on.
    """
    n = np.log([point.rows for point in points])
    value, error = (np.array([getattr(point, name) for point in points]) for name in ("value", "error"))
    chance = np.random.default_rng(0)
    drawn = chance.normal(size=(DRAWS, len(points))) * error + value
    wrong = _odds(drawn) if share else np.maximum(drawn, LEAST)
    floor = np.maximum(chance.uniform(-NONE, FLOOR, DRAWS), 0) * wrong.min(1)
    last = points[-1]
    for size in sizes:
        left = floor + _drawn_on(n, wrong - floor[:, None], math.log(size))
        if not all(point.done for point in points):
            left = np.concatenate([left, wrong[:, -1]])
        low, middle, high = np.quantile(1 / (1 + left) if share else left, (0.025, 0.5, 0.975))
        # It learns no faster for having more to learn from, and each row is read.
        passes = max(last.updates * DEFAULT_EXAMPLES / size, 1.0)
        seconds = last.seconds / last.updates * passes * size / DEFAULT_EXAMPLES
        yield Expected(size, float(middle), float(low), float(high), passes, seconds)


def _odds(right: Numbers) -> Numbers:
    """That an answer is wrong, of the share of those that are right."""
    right = np.clip(right, LEAST, 1 - LEAST)
    return (1 - right) / right


def _drawn_on(n: Numbers, wrong: Numbers, at: float) -> Numbers:
    """[D] what [D, P] lines through logarithms of rows `n` [P] say is wrong at `at`; more rows never do harm."""
    logs, apart = np.log(wrong), n - n.mean()
    slope = np.minimum((logs * apart).sum(1) / (apart**2).sum(), 0.0)
    return np.asarray(np.exp(logs.mean(1) + slope * (at - n.mean())))
