"""Whether a model should be fine-tuned on these rows: `bottega.advise(data, model)`.

Part of the rows is held out. The model is tuned on a twentieth of the rest until the loss stops improving, then on a
tenth and a fifth (`study`). The learning curve through the three results is extrapolated to all rows, with an interval
(`learning_curve`), and compared with what needs no tuning: the model as it is, few-shot prompts, the nearest training
rows. The answer may be: don't.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bottega.data.reader import read_rows
from bottega.data.sampler import DEFAULT_EXAMPLES
from bottega.errors import DataError, RunError
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.planning.init import suggest_objective
from bottega.planning.learning_curve import CurvePoint, Extrapolation, extrapolate
from bottega.planning.study import LocatedRow, Study, TrainedPart, write_rows
from bottega.progress import StatusCallback, ignore_status
from bottega.recipe.files import resolve_source_path
from bottega.recipe.schema import Layout, Recipe, Source
from bottega.seeding import derive
from bottega.suggestions import join_names
from bottega.training.model_card import Component, list_components

# Updates that every part may take, however few rows there are.
MIN_UPDATES = 200

Outcome = Literal["tune", "don't", "inconclusive"]


@dataclass(frozen=True)
class Counsel:
    """Whether to fine-tune, and why.

    kind      the objective
    metric    the metric that decides; `higher` says whether more is better
    without   its value without tuning, by baseline
    points    its value after tuning on parts of the rows
    expected  its value expected of all rows, and of twice as many
    saved     tokens fewer that a request reads than with the longest prompt; None if no prompt was tried
    repaid    requests after which the training on all rows has paid for itself in time; None if it never does
    licences  (kind, name, licence) of the model and the rows
    """

    outcome: Outcome
    sentence: str
    kind: str
    metric: str
    higher: bool
    without: dict[str, float]
    points: Sequence[CurvePoint]
    expected: Sequence[Extrapolation]
    saved: float | None
    repaid: float | None
    licences: Sequence[tuple[str, str, str]] = field(default=())

    def document(self) -> dict[str, Any]:
        """The advice as plain data."""
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

    objective  what to learn; default: what the rows suggest
    mapping    bottega's name of a field → the file's
    layout     how the file is laid out, if it does not say so itself
    rows       evaluation rows, at most; never more than a fifth
    epochs     passes over all rows that the three runs may take together; each may take at least MIN_UPDATES
    out        a new folder to keep the parts and the runs in; default: they are deleted
    tell       called with the status: message, done, total
    so_far     called with preliminary advice after each part but the last, so that an interrupted call leaves something
    """
    tell, path = tell or ignore_status, resolve_source_path(str(data))
    if out is not None and Path(out).exists():
        raise RunError("already exists", where=str(out), fix="choose a new folder: --out DIR")
    with contextlib.ExitStack() as stack:
        folder = Path(out or stack.enter_context(tempfile.TemporaryDirectory())).absolute()
        located_rows = list(_read_rows(path, mapping or {}, layout or Layout()))
        random.Random(derive(seed, "advise")).shuffle(located_rows)
        folder.mkdir(parents=True, exist_ok=True)
        kind = objective or suggest_objective(str(write_rows(folder / "train.jsonl", located_rows[:1])))
        study = Study(folder, kind, str(model), seed, tell)
        parts, training_rows = study.split_rows(located_rows, rows, path)
        updates = math.ceil(epochs * len(training_rows) / DEFAULT_EXAMPLES / len(parts))
        trained: list[TrainedPart] = []
        for part in study.train_parts(parts, max(updates, MIN_UPDATES)):
            trained.append(part)
            if so_far is not None and len(trained) < len(parts):
                so_far(_preliminary_counsel(kind, trained, len(parts)))
        document = trained[0].recipe.document()
    licences = list_components(Recipe.parse({**document, "data": {"train": path}, "evaluate": None}))
    return _counsel(kind, trained, len(training_rows), licences)


def _read_rows(path: str, mapping: Mapping[str, str], layout: Layout) -> Iterator[LocatedRow]:
    """Rows with their fields renamed; a DataError for a row that cannot be read, or lacks a field of the mapping."""
    for location, fields in read_rows([Source(path=path, **layout.model_dump())]):
        if isinstance(fields, DataError):
            raise fields
        missing = next((name for name in mapping.values() if name not in fields), None)
        if missing is not None:
            raise DataError(f"no field {missing}", where=location, fix=f"it has {join_names(fields)}")
        yield location, {**fields, **{name: fields[original] for name, original in mapping.items()}}


def _preliminary_counsel(kind: str, trained: Sequence[TrainedPart], parts: int) -> Counsel:
    """What is known after the first parts, without an extrapolation."""
    first = trained[0].evaluation
    metric = first.verdict.metric or ""
    sentence = f"Only {len(trained)} of {parts} runs are done: too few to extrapolate to all rows."
    higher = bool(_estimate(first, metric).higher)
    points = list(_curve_points(trained, metric))
    return Counsel("inconclusive", sentence, kind, metric, higher, _baselines(first, metric), points, [], None, None)


def _counsel(kind: str, trained: Sequence[TrainedPart], rows: int, licences: Sequence[Component]) -> Counsel:
    first = trained[0].evaluation
    metric = first.verdict.metric or ""
    higher = bool(_estimate(first, metric).higher)
    points = list(_curve_points(trained, metric))
    # A metric where more is better is a fraction of right answers; else it is a loss.
    expected = list(extrapolate(points, [rows, 2 * rows], share=higher))
    baselines = _baselines(first, metric)
    # An earlier part that was not done makes the extrapolation too optimistic, never too pessimistic, so that a "don't"
    # holds: only the last part matters.
    outcome, sentence = decide(metric, higher, baselines, expected[0], done=points[-1].done)
    saved, repaid = _savings(first, expected[0].seconds)
    return Counsel(outcome, sentence, kind, metric, higher, baselines, points, expected, saved, repaid, licences)


def decide(
    metric: str, higher: bool, baselines: dict[str, float], all_rows: Extrapolation, *, done: bool = True
) -> tuple[Outcome, str]:
    """(outcome, sentence): what is expected of all rows beside the best baseline.

    done  whether the last run had stopped improving; if not, more training may bring more than was extrapolated
    """
    prediction = (
        f"tuning on all {all_rows.rows} rows should give {metric_label(metric)} {all_rows.value:.3g} "
        f"({all_rows.low:.3g} to {all_rows.high:.3g})"
    )
    if not baselines:
        return "inconclusive", f"Inconclusive: {prediction}; there is no baseline to compare it with."
    best = (max if higher else min)(baselines, key=lambda name: baselines[name])
    value = baselines[best]
    better, worse = all_rows.low > value, all_rows.high < value
    if not higher:
        better, worse = all_rows.high < value, all_rows.low > value
    comparison = f"{prediction}; {best} gives {value:.3g}"
    if better:
        return "tune", f"Tune it: {comparison}."
    if not done:
        return "inconclusive", f"Inconclusive: {comparison}. Training had not converged: allow more with --epochs."
    if worse:
        return "don't", f"Don't: {comparison} without any tuning."
    return (
        "inconclusive",
        f"Inconclusive: {comparison}. Evaluate on more rows (--rows), or tune on all rows and evaluate.",
    )


def _savings(evaluation: Evaluation, training_seconds: float) -> tuple[float | None, float | None]:
    """(tokens fewer that a request reads than with the longest prompt, requests that pay for the training in time)."""
    prompts = [
        baseline.cost
        for baseline in evaluation.contenders
        if baseline.cost is not None and baseline.name != evaluation.base
    ]
    longest = max(prompts, key=lambda cost: cost.read, default=None)
    if longest is None or evaluation.cost is None:
        return None, None
    seconds = longest.seconds - evaluation.cost.seconds
    return longest.read - evaluation.cost.read, training_seconds / seconds if seconds > 0 else None


def _baselines(evaluation: Evaluation, metric: str) -> dict[str, float]:
    """The metric of each baseline that has it."""
    estimates = {baseline.name: baseline.estimate(metric) for baseline in evaluation.contenders}
    return {
        name: estimate.base
        for name, estimate in estimates.items()
        if estimate is not None and estimate.base is not None
    }


def _curve_points(trained: Sequence[TrainedPart], metric: str) -> Iterator[CurvePoint]:
    # Each run starts from the one before, so updates and seconds add up.
    updates, seconds = 0, 0.0
    for part in trained:
        updates, seconds = updates + part.updates, seconds + part.seconds
        estimate = _estimate(part.evaluation, metric)
        yield CurvePoint(part.rows, estimate.run, _standard_error(estimate), updates, seconds, part.done)


def _estimate(evaluation: Evaluation, metric: str) -> Estimate:
    return next(estimate for estimate in evaluation.estimates if estimate.metric == metric)


def _standard_error(estimate: Estimate) -> float:
    """The standard error of the run's metric: over rows if it is a mean of them, else that of the difference."""
    scores = None if estimate.each is None else estimate.each[0][~np.isnan(estimate.each[0])]
    if scores is not None and len(scores) > 1:
        return float(scores.std(ddof=1) / math.sqrt(len(scores)))
    return estimate.error or 0.0
