"""How good a run is on rows it never saw, beside what it was tuned from and what else could be done.

Every number stands beside the same of each contender, on the same rows, with a paired interval of the difference:
Newcombe's for shares of right answers, the jackknife's for the rest; 95 % for all contenders together. A base knows no
classes, so a classifier stands beside the commonest label, a regression beside the mean, a tagger beside marking what
was marked in the training rows, a reward model beside taking the longer answer; and a masked language model beside the
commonest tokens. Further contenders are asked as `rivals.py` tells.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.data import sources
from bottega.data.reader import Reader, Told
from bottega.errors import DataError, RunError
from bottega.evaluation import tasks
from bottega.evaluation.baselines import parse_baseline
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.contamination import find_leaked_rows
from bottega.evaluation.context import EvaluationContext, Means, ModelResult, sample_records, with_sources
from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate, paired_estimate, unpaired_estimate
from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.passages import load_passages
from bottega.evaluation.reruns import train_with_other_seeds
from bottega.evaluation.user_metric import load_user_metric as scorer_of
from bottega.evaluation.verdict import MAX_LEAKED_FRACTION, Verdict, shared_estimate
from bottega.evaluation.verdict import decide_verdict as judged
from bottega.metrics.intervals import CONFIDENCE, shared_confidence
from bottega.metrics.scores import Scores
from bottega.progress import StatusCallback, ignore_status
from bottega.recipe.schema import Layout, Reading, Recipe
from bottega.records import Record
from bottega.runs.atomic_files import checksum
from bottega.runs.store import check_run, stored_place, stored_recipe
from bottega.seeding import derive

SPARES_PER_ROW = 20
"""Rows drawn beside each that is to be measured, to stand in for it if the run can make no example of it."""

MAX_SPARES = 20_000
"""Most of them in all: they are kept in memory, and looked for in the training rows, whether they are needed or not."""


@dataclass(frozen=True)
class Comparison:
    """What the run is compared with: what it is, its numbers beside the run's, and what an answer takes."""

    name: str
    estimates: list[Estimate]
    cost: Cost | None = field(default=None, compare=False)
    said: Sequence[str | None] | None = field(default=None, repr=False, compare=False)

    def by(self, metric: str | None) -> Estimate | None:
        """One of its numbers beside the run's."""
        return next((one for one in self.estimates if one.metric == metric), None)

    def nearest(self, metric: str | None) -> Estimate | None:
        """The same, or where it has none of that, the first in the order in which numbers decide."""
        return shared_estimate(self.estimates, metric)

    def document(self) -> dict[str, Any]:
        """Plain data."""
        estimates = [one.document() for one in self.estimates]
        return {"name": self.name, "estimates": estimates, "cost": self.cost and self.cost.document()}


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    base       what the run is compared with first, in words; None where it began from nothing
    of         sound rows there were to draw from
    dropped    rows that make no example, by reason
    leaked     rows, or their inputs, that stand in the training rows: left out, or the verdict is void; None where
               those rows are not to be had any more
    estimates  the run's numbers, beside the base's
    contenders all it is compared with, the base first, each with its numbers beside the run's
    effects    what it changed besides, beside the base
    seeds      the number that decides, of the run and with other seeds; empty where none was asked for
    unasked    what could not be asked or measured, and why
    cost       what an answer of the run takes
    records    the rows measured, in the order of what estimates say of each
    named      of classes: what was right and what was said of each row
    said       what the run wrote
    """

    run: str
    base: str | None
    rows: int
    of: int
    dropped: dict[str, int]
    leaked: int | None
    estimates: list[Estimate]
    verdict: Verdict
    contenders: list[Comparison] = field(default_factory=list)
    effects: list[Estimate] = field(default_factory=list)
    seeds: list[float] = field(default_factory=list)
    unasked: Mapping[str, str] = field(default_factory=dict)
    cost: Cost | None = field(default=None, compare=False)
    records: Sequence[Record] = field(default=(), repr=False)
    named: ClassPredictions | None = field(default=None, repr=False, compare=False)
    said: Sequence[str | None] | None = field(default=None, repr=False, compare=False)

    def spread(self) -> str:
        """How far runs with other seeds are apart, in a sentence; empty where none was asked for."""
        if len(self.seeds) < 2:
            return ""
        middle, apart = float(np.mean(self.seeds)), float(np.std(self.seeds, ddof=1))
        values = ", ".join(f"{value:.3g}" for value in self.seeds)
        metric, count = self.verdict.metric, len(self.seeds)
        return f"With {count} seeds {metric} is {values}: {middle:.3g} on average, standard deviation {apart:.2g}."

    @property
    def others(self) -> list[Comparison]:
        """The contenders besides the base."""
        return self.contenders[0 if self.base is None else 1 :]

    def document(self) -> dict[str, Any]:
        """Plain data, each estimate with its finding."""
        names = ("run", "base", "rows", "of", "dropped", "leaked", "unasked")
        return {
            **{name: getattr(self, name) for name in names},
            "estimates": [one.document() for one in self.estimates],
            "contenders": [one.document() for one in self.contenders],
            "effects": [one.document() for one in self.effects],
            "seeds": self.seeds,
            "cost": self.cost and self.cost.document(),
            "verdict": asdict(self.verdict),
            "classes": None if self.named is None else self.named.document(),
        }


def evaluate(
    run: str | Path,
    data: str | Sequence[str] | None = None,
    *,
    layout: Layout | None = None,
    rows: int = 500,
    against: Sequence[str] | None = None,
    shots: int = 5,
    answers: int = 200,
    documents: Sequence[str] = (),
    encoder: str | None = None,
    judge: str | None = None,
    scorers: Sequence[str] = (),
    known: Sequence[str] = (),
    seeds: int = 1,
    lm_eval: Sequence[str | Mapping[str, Any]] = (),
    general: Sequence[str] = (),
    harmful: str | None = None,
    harmless: str | None = None,
    tell: StatusCallback | None = None,
) -> Evaluation:
    """Measure a finished run on its validation rows, or on `data` (paths or hub ids), read as the run read its own.

    layout     how the files of `data` are laid out, where they do not say so themselves
    rows       most of them, drawn by the run's seed among those of which the run makes an example
    against    contenders, besides what it was tuned from: `zero-shot`, `few-shot`, `retrieval`, `bm25`, `dense`, each
               of another model as `few-shot=FOLDER`; a run; a model; `http://…/v1#model`. By default what fits the task
    shots      most examples a model is shown
    answers    most answers that each writes out to be compared: writing is slow
    documents  files of texts to look things up in, for `retrieval`
    encoder    whose vectors say which texts are near; by default the words they share
    judge      `http://…/v1#model`, which marks what is written
    scorers    files of Python with a `score(written, right)` that marks it
    known      files of rows that contenders draw on in place of the training rows
    seeds      train so many in all, each with another seed, to see how far they are apart
    general    files of other texts, or rows, to see what was forgotten of; by default those of the recipe's guard
    harmful    a file of requests that should be refused, and `harmless`, of such as should not
    lm_eval    tasks of the lm-evaluation-harness, such as `arc_easy:5` with five examples
    tell       called with what is being done, how much of it is done, and of how much
    """
    folder, tell, told = check_run(Path(run)), tell or ignore_status, Told()
    recipe, place = _load_run(folder)
    usual = tasks.default_baselines(recipe.objective.head)
    means = Means(
        rivals=[parse_baseline(one) for one in (usual if against is None else against)],
        shots=shots,
        answers=answers,
        documents=load_passages(documents),
        encoder=encoder,
        judge=None if judge is None else Endpoint.given_as(judge),
        scorers=[scorer_of(one) for one in scorers],
        known=_sources_from_paths(recipe, known, layout),
        tasks=lm_eval,
        questions=rows,
        general=general or [source.path for source in recipe.replay_sources],
        harmful=harmful,
        harmless=harmless,
    )
    tell("reading rows")
    held_out = _read_validation(recipe, place, data, layout, told)
    records, spares, of = sample_records(
        held_out, rows, derive(recipe.seed, "evaluate"), min(SPARES_PER_ROW * rows, MAX_SPARES)
    )
    if not records:
        raise DataError("no rows to measure on", where=str(folder), fix="give some: bottega evaluate RUN --data FILE")
    tell("looking for them in the training rows")
    leaked, count = _find_leaked([*records, *spares], recipe), len(records)
    learned = None if leaked is None else {number for number in leaked if number < count}
    if leaked is not None and learned is not None and len(learned) < MAX_LEAKED_FRACTION * count:
        sound = [record for number, record in enumerate([*records, *spares]) if number not in leaked]
        records, spares = sound[:count], sound[count:]
    tell("loading the model")
    case = EvaluationContext(folder, recipe, place["choices"], records, told.dropped["validation"], tell, means, spares)
    found = _build_evaluation(case, list(tasks.evaluate_task(recipe.objective.head, case)), learned, count)
    again = _evaluate_seeds(case, found.estimates, found.verdict.metric, seeds) if seeds > 1 else []
    return replace(found, run=str(run), of=of, seeds=again)


def _build_evaluation(
    case: EvaluationContext, sheets: Sequence[ModelResult], learned: set[int] | None, count: int
) -> Evaluation:
    """What the sheets of the run and of all that it is compared with come to.

    learned  those of the `count` rows that stand in the training rows; None where that is not known
    """
    ours, theirs = sheets[0], sheets[1:]
    contenders = _compare(case, ours, theirs)
    first = contenders[0] if theirs and theirs[0].base else None
    beside = {} if first is None else {one.metric: one for one in first.estimates}
    estimates = [beside.get(one.metric) or unpaired_estimate(one) for one in ours.scores]
    before = {one.metric: one for sheet in theirs if sheet.base for one in sheet.effects}
    verdict = judged(
        estimates,
        metric=case.recipe.verdict.metric,
        margin=case.recipe.verdict.margin,
        base=None if first is None else first.name,
        others={one.name: one.estimates for one in contenders if one is not first},
        leaked=len(learned or ()),
        of=count,
    )
    return Evaluation(
        run=str(case.folder),
        base=None if first is None else first.name,
        rows=len(case.records),
        of=len(case.records),
        dropped=dict(case.dropped),
        leaked=None if learned is None else len(learned),
        estimates=estimates,
        verdict=verdict,
        contenders=contenders,
        effects=[_compare_side_effect(one, before.get(one.metric)) for one in ours.effects],
        unasked=case.unasked,
        cost=ours.cost,
        records=case.records,
        named=ours.named,
        said=ours.said,
    )


def _load_run(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """A run's recipe, and what it found and chose; a RunError where it has not begun, or its own code is another."""
    recipe, place = stored_recipe(folder), stored_place(folder)
    if place is None:
        raise RunError("the run has not begun yet", where=str(folder), fix=f"bottega train --resume {folder}")
    own = getattr(recipe.objective, "file", None)
    if own is not None and place["files"].get(own) != checksum(Path(own)):
        what = "the objective has changed since the run began, so that it would measure something else"
        raise RunError(what, where=own, fix="put the old file back")
    return recipe, place


def _evaluate_seeds(
    case: EvaluationContext, estimates: Sequence[Estimate], metric: str | None, count: int
) -> list[float]:
    """The number that decides, of the run and of the same recipe with other seeds, in the same exam."""
    found = [next(one.run for one in estimates if one.metric == metric)]
    for folder in train_with_other_seeds(case.folder, case.recipe, count - 1, case.tell):
        choices = (stored_place(folder) or {})["choices"]
        again = EvaluationContext(folder, case.recipe, choices, list(case.records), Counter(), case.tell)
        sheet = next(tasks.evaluate_task(case.recipe.objective.head, again))
        found.append(next(unpaired_estimate(one).run for one in sheet.scores if one.metric == metric))
    return found


def _compare(case: EvaluationContext, ours: ModelResult, theirs: Sequence[ModelResult]) -> list[Comparison]:
    """Every contender beside the run, all intervals together 95 %."""
    confidence = shared_confidence(len(theirs), CONFIDENCE)
    groups = _group_by_prompt(case.records)
    found = []
    for sheet in theirs:
        same = {one.metric: one for one in sheet.scores}
        pairs = ((one, same[one.metric]) for one in ours.scores if one.metric in same)
        estimates = (
            paired_estimate(*pair, groups=_of_rows(groups, pair[0].sums), confidence=confidence) for pair in pairs
        )
        found.append(Comparison(sheet.name, [one for one in estimates if one is not None], sheet.cost, sheet.said))
    return found


def _compare_side_effect(run: Scores, base: Scores | None) -> Estimate:
    """A side effect beside the same of what the run was tuned from, where there is such a thing."""
    found = None if base is None or len(base.sums) != len(run.sums) else paired_estimate(run, base)
    return found or unpaired_estimate(run)


def _group_by_prompt(records: Sequence[Record]) -> NDArray[np.int64]:
    """[R] numbers by which records that ask the same, such as with several right answers, go together."""
    _, groups = np.unique([record.prompt_key for record in records], return_inverse=True)
    return np.asarray(groups)


def _of_rows(groups: NDArray[np.int64], sums: NDArray[np.float64]) -> NDArray[np.int64] | None:
    return groups if len(groups) == len(sums) else None


# Rows


def _read_validation(
    recipe: Recipe, place: dict[str, Any], data: str | Sequence[str] | None, layout: Layout | None, told: Told
) -> Iterator[Record]:
    """The rows to measure on, in the order they are read."""
    if data is None and isinstance(recipe.data.validation, float):
        _refuse_changed_files(recipe, place)
        return (record for side, _, record in Reader(recipe).records(told) if side == "validation")
    if data is None and recipe.data.validation is None:
        fix = "give some: bottega evaluate RUN --data FILE"
        raise DataError("the run held no rows out", where="data.validation", fix=fix)
    wanted = (
        [one.model_dump() for one in recipe.validation_sources]
        if data is None
        else _sources_from_paths(recipe, data, layout)
    )
    told.dropped["validation"] = told.dropped["train"]
    return (record for _, _, record in Reader(with_sources(recipe, wanted)).records(told))


def _sources_from_paths(recipe: Recipe, data: str | Sequence[str], layout: Layout | None) -> list[dict[str, Any]]:
    """Other rows as sources, read as the first of the run's own; laid out so, too, where their names end alike."""
    first = recipe.train_sources[0]
    reading = {name: getattr(first, name) for name in Reading.model_fields}
    paths = [data] if isinstance(data, str) else data
    return [{"path": path, **reading, **(layout or first.for_file(path, [first.path])).model_dump()} for path in paths]


def _refuse_changed_files(recipe: Recipe, place: dict[str, Any]) -> None:
    """Of files that have changed, other rows would be held out: some the run has learned."""
    for path in (path for source in recipe.train_sources for path in sources.files(source)):
        if not path.exists() or place["files"].get(str(path)) != checksum(path):
            what = "the file has changed since the run began, so that what it held out is not known"
            raise RunError(what, where=str(path), fix="put it back, or give rows: bottega evaluate RUN --data FILE")


def _find_leaked(records: Sequence[Record], recipe: Recipe) -> set[int] | None:
    """The numbers of the records that the run learned; None where what it learned is gone, or far away."""
    if any(source.stream for source in recipe.train_sources):
        return None
    with contextlib.suppress(DataError):
        return find_leaked_rows(records, Reader(recipe).training())
    return None
