"""How good a run is on rows it never saw, compared with its base model and with further baselines.

Every metric of the run stands beside that of each baseline, on the same rows, with a paired confidence interval of the
difference: Newcombe's for fractions of right answers, the jackknife's for the rest; 95 % for all baselines together. A
base model has no classes, so a classifier is compared with the most frequent label, a regression with the mean, a
tagger with a gazetteer of the training rows, a reward model with taking the longer answer, and a masked language model
with the most frequent tokens. Further baselines are those of `baselines.py`.
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
from bottega.data.reader import ReadSummary, RecipeReader
from bottega.errors import DataError, RunError
from bottega.evaluation import tasks
from bottega.evaluation.baselines import parse_baseline
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.contamination import find_leaked_rows
from bottega.evaluation.context import EvaluationContext, ModelResult, sample_records, with_sources
from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate, paired_estimate, unpaired_estimate
from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.options import EvaluateOptions, parse_options
from bottega.evaluation.passages import load_passages
from bottega.evaluation.reruns import train_with_other_seeds
from bottega.evaluation.user_metric import load_user_metric
from bottega.evaluation.verdict import MAX_LEAKED_FRACTION, Verdict, decide_verdict, shared_estimate
from bottega.metrics.catalog import metric_label
from bottega.metrics.intervals import CONFIDENCE, bonferroni_confidence
from bottega.metrics.scores import Scores
from bottega.progress import StatusCallback, ignore_status
from bottega.recipe.schema import Layout, Reading, Recipe
from bottega.records import Record
from bottega.runs.atomic_files import checksum
from bottega.runs.store import check_run, stored_place, stored_recipe
from bottega.seeding import derive

# Spare rows sampled for each row to evaluate: they replace rows that the run can build no example from.
SPARES_PER_ROW = 20

# Spares are kept in memory and searched for in the training rows whether they are needed or not, hence a limit.
MAX_SPARES = 20_000


@dataclass(frozen=True)
class Comparison:
    """A baseline, its metrics beside the run's, and what an answer costs."""

    name: str
    estimates: list[Estimate]
    cost: Cost | None = field(default=None, compare=False)
    answers: Sequence[str | None] | None = field(default=None, repr=False, compare=False)

    def estimate(self, metric: str | None) -> Estimate | None:
        """The estimate of one metric; None where the baseline lacks it."""
        return next((estimate for estimate in self.estimates if estimate.metric == metric), None)

    def shared(self, metric: str | None) -> Estimate | None:
        """The same; where the baseline lacks it, that of the first metric in the order in which metrics decide."""
        return shared_estimate(self.estimates, metric)

    def document(self) -> dict[str, Any]:
        """Plain data."""
        estimates = [estimate.document() for estimate in self.estimates]
        return {"name": self.name, "estimates": estimates, "cost": self.cost and self.cost.document()}


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    base         a description of what the run is compared with first; None where it has no base
    of           valid rows to sample from
    dropped      rows that make no example, by reason
    leaked       rows, or their inputs, that are also training rows: left out, or the verdict is void; None where the
                 training rows are no longer available
    estimates    the run's metrics beside the base's
    contenders   everything the run is compared with, the base first
    effects      side effects, beside the base's
    seeds        the deciding metric of the run and of runs with other seeds; empty where none was asked for
    unasked      baselines and metrics that could not be evaluated, or only partly, and why
    cost         what an answer of the run costs
    records      [R] the rows evaluated
    predictions  for classes: reference and predicted class of each row
    answers      [R] what the run generated
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
    predictions: ClassPredictions | None = field(default=None, repr=False, compare=False)
    answers: Sequence[str | None] | None = field(default=None, repr=False, compare=False)

    def spread(self) -> str:
        """A sentence on how far runs with other seeds differ; empty where none was asked for."""
        if len(self.seeds) < 2:
            return ""
        mean, deviation = float(np.mean(self.seeds)), float(np.std(self.seeds, ddof=1))
        values = ", ".join(f"{value:.3g}" for value in self.seeds)
        metric, count = metric_label(self.verdict.metric or ""), len(self.seeds)
        return f"With {count} seeds {metric} is {values}: {mean:.3g} on average, standard deviation {deviation:.2g}."

    @property
    def others(self) -> list[Comparison]:
        """The baselines besides the base."""
        return self.contenders[0 if self.base is None else 1 :]

    def document(self) -> dict[str, Any]:
        """Plain data, each estimate with its finding."""
        names = ("run", "base", "rows", "of", "dropped", "leaked", "unasked")
        return {
            **{name: getattr(self, name) for name in names},
            "estimates": [estimate.document() for estimate in self.estimates],
            "contenders": [comparison.document() for comparison in self.contenders],
            "effects": [estimate.document() for estimate in self.effects],
            "seeds": self.seeds,
            "cost": self.cost and self.cost.document(),
            "verdict": asdict(self.verdict),
            "classes": None if self.predictions is None else self.predictions.document(),
        }


def evaluate(
    run: str | Path, data: str | Sequence[str] | None = None, *, tell: StatusCallback | None = None, **options: Any
) -> Evaluation:
    """Evaluate a finished run on its validation rows, or on `data` (paths or hub ids), read as the run's own.

    A RunError or DataError where there is nothing to evaluate, a RecipeError where an option is not valid.

    tell     called with what is being done, how much of it is done, and the total
    options  the fields of `bottega.evaluation.options.EvaluateOptions`, as `rows=100` or `against=["few-shot"]`
    """
    chosen = parse_options({"data": data, **options})
    folder, progress, counts = check_run(Path(run)), tell or ignore_status, ReadSummary()
    recipe, place = _load_run(folder)
    context = _build_context(folder, recipe, place, chosen, progress)
    progress("reading rows")
    validation = _read_validation(recipe, place, chosen, counts)
    seed, spare_count = derive(recipe.seed, "evaluate"), min(SPARES_PER_ROW * chosen.rows, MAX_SPARES)
    records, spares, available = sample_records(validation, chosen.rows, seed, spare_count)
    if not records:
        fix = "give some: bottega evaluate RUN --data FILE"
        raise DataError("no rows to evaluate on", where=str(folder), fix=fix)
    progress("searching for these rows in the training rows")
    leaked, count = _find_leaked([*records, *spares], recipe), len(records)
    leaked_records = None if leaked is None else {index for index in leaked if index < count}
    # A few leaked rows are replaced by spares; of many, the verdict will be void.
    if leaked is not None and leaked_records is not None and len(leaked_records) < MAX_LEAKED_FRACTION * count:
        clean = [record for index, record in enumerate([*records, *spares]) if index not in leaked]
        records, spares = clean[:count], clean[count:]
    progress("loading the model")
    context = replace(context, records=records, spares=spares)
    results = list(tasks.evaluate_task(recipe.objective.head, context))
    evaluation = _build_evaluation(context, results, counts.dropped["validation"], leaked_records, count)
    seeds = _evaluate_seeds(context, evaluation, chosen.seeds) if chosen.seeds > 1 else []
    return replace(evaluation, run=str(run), of=available, seeds=seeds)


def _build_context(
    folder: Path, recipe: Recipe, place: dict[str, Any], options: EvaluateOptions, progress: StatusCallback
) -> EvaluationContext:
    """The context without its records. Every option is read here, so that a mistake shows before anything is loaded."""
    # An empty list means no baselines, None the default ones.
    specs = tasks.default_baselines(recipe.objective.head) if options.against is None else options.against
    return EvaluationContext(
        folder=folder,
        recipe=recipe,
        choices=place["choices"],
        records=(),
        progress=progress,
        options=options,
        baselines=[parse_baseline(spec) for spec in specs],
        passages=load_passages(options.documents),
        judge=None if options.judge is None else Endpoint.parse(options.judge),
        user_metrics=[load_user_metric(path) for path in options.scorers],
        baseline_sources=_sources_from_paths(recipe, options.known, options.layout),
    )


def _build_evaluation(
    context: EvaluationContext,
    results: Sequence[ModelResult],
    unread: Counter[str],
    leaked: set[int] | None,
    count: int,
) -> Evaluation:
    """The evaluation from the results of the run, which come first, and of all baselines.

    unread  rows that could not be read, by reason
    leaked  those of the `count` rows that are training rows; None where that is not known
    """
    # The order of results is a contract with the tasks: the run, then the base if there is one, then the others.
    run, baselines = results[0], results[1:]
    comparisons = _compare(run, baselines)
    base = comparisons[0] if baselines and baselines[0].base else None
    base_name = None if base is None else base.name
    paired = {} if base is None else {estimate.metric: estimate for estimate in base.estimates}
    # A metric that the base lacks, such as an implicit reward, stands alone.
    estimates = [paired.get(scores.metric) or unpaired_estimate(scores) for scores in run.scores]
    base_effects = {scores.metric: scores for result in baselines if result.base for scores in result.effects}
    verdict = decide_verdict(
        estimates,
        metric=context.recipe.verdict.metric,
        margin=context.recipe.verdict.margin,
        base=base_name,
        others={comparison.name: comparison.estimates for comparison in comparisons if comparison is not base},
        leaked=len(leaked or ()),
        of=count,
    )
    return Evaluation(
        run=str(context.folder),
        base=base_name,
        rows=len(run.records),
        of=len(run.records),
        dropped=dict(unread + Counter(run.dropped)),
        leaked=None if leaked is None else len(leaked),
        estimates=estimates,
        verdict=verdict,
        contenders=comparisons,
        effects=[_compare_side_effect(scores, base_effects.get(scores.metric)) for scores in run.effects],
        unasked=context.notes,
        cost=run.cost,
        records=run.records,
        predictions=run.predictions,
        answers=run.answers,
    )


def _load_run(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """(recipe, `place.json`) of a run; a RunError where it has not begun, or its custom objective has changed."""
    recipe, place = stored_recipe(folder), stored_place(folder)
    if place is None:
        raise RunError("the run has not begun yet", where=str(folder), fix=f"bottega train --resume {folder}")
    # Only a custom objective has a file.
    file = getattr(recipe.objective, "file", None)
    if file is not None and place["files"].get(file) != checksum(Path(file)):
        what = "the objective has changed since the run began, so the evaluation would measure something else"
        raise RunError(what, where=file, fix="put the old file back")
    return recipe, place


def _evaluate_seeds(context: EvaluationContext, evaluation: Evaluation, count: int) -> list[float]:
    """The deciding metric of the run, and of the same recipe trained with other seeds, on the same rows."""
    metric = evaluation.verdict.metric
    values = [next(estimate.run for estimate in evaluation.estimates if estimate.metric == metric)]
    for folder in train_with_other_seeds(context.folder, context.recipe, count - 1, context.progress):
        choices = (stored_place(folder) or {})["choices"]
        # No baselines, no spares, and notes of its own: only the result of the run, the first, is used.
        rerun = EvaluationContext(folder, context.recipe, choices, evaluation.records, context.progress)
        result = next(tasks.evaluate_task(context.recipe.objective.head, rerun))
        values.append(next(unpaired_estimate(scores).run for scores in result.scores if scores.metric == metric))
    return values


def _compare(run: ModelResult, baselines: Sequence[ModelResult]) -> list[Comparison]:
    """Every baseline beside the run; the confidence is corrected for their number (Bonferroni)."""
    confidence = bonferroni_confidence(len(baselines), CONFIDENCE)
    groups = _group_by_prompt(run.records)
    comparisons = []
    for result in baselines:
        base_scores = {scores.metric: scores for scores in result.scores}
        estimates = [
            paired_estimate(
                scores, base_scores[scores.metric], groups=_groups_for(groups, scores), confidence=confidence
            )
            for scores in run.scores
            if scores.metric in base_scores
        ]
        known = [estimate for estimate in estimates if estimate is not None]
        comparisons.append(Comparison(result.name, known, result.cost, result.answers))
    return comparisons


def _compare_side_effect(run: Scores, base: Scores | None) -> Estimate:
    """A side effect beside the base's, where there is one on the same rows."""
    # Tokenizers differ in which rows are long enough, or how many pieces a text makes.
    paired = None if base is None or len(base.sums) != len(run.sums) else paired_estimate(run, base)
    return paired or unpaired_estimate(run)


def _group_by_prompt(records: Sequence[Record]) -> NDArray[np.int64]:
    """[R] group of each record: those with the same prompt, as with several right answers, are not independent."""
    _, groups = np.unique([record.prompt_key for record in records], return_inverse=True)
    return np.asarray(groups)


def _groups_for(groups: NDArray[np.int64], scores: Scores) -> NDArray[np.int64] | None:
    # Scores of pieces of texts, or of lm-eval questions, have rows of their own.
    return groups if len(groups) == len(scores.sums) else None


# Rows


def _read_validation(
    recipe: Recipe, place: dict[str, Any], options: EvaluateOptions, counts: ReadSummary
) -> Iterator[Record]:
    """The rows to evaluate on, in the order they are read; `counts` receives how many are dropped."""
    validation = recipe.data.validation
    if options.data is None and isinstance(validation, float):
        _refuse_changed_files(recipe, place)
        return (record for side, _, record in RecipeReader(recipe).records(counts) if side == "validation")
    if options.data is None and validation is None:
        fix = "give some: bottega evaluate RUN --data FILE"
        raise DataError("the run has no validation rows", where="data.validation", fix=fix)
    if options.data is None:
        chosen = [source.model_dump() for source in recipe.validation_sources]
    else:
        chosen = _sources_from_paths(recipe, options.data, options.layout)
    # They are read as training sources, so that is where the reader counts.
    counts.dropped["validation"] = counts.dropped["train"]
    return (record for _, _, record in RecipeReader(with_sources(recipe, chosen)).records(counts))


def _sources_from_paths(recipe: Recipe, paths: Sequence[str], layout: Layout | None) -> list[dict[str, Any]]:
    """Other files as sources, read as the run's first source; with its layout where the suffix is the same."""
    first = recipe.train_sources[0]
    reading = {name: getattr(first, name) for name in Reading.model_fields}
    return [{"path": path, **reading, **(layout or first.for_file(path, [first.path])).model_dump()} for path in paths]


def _refuse_changed_files(recipe: Recipe, place: dict[str, Any]) -> None:
    """A RunError where a file has changed: the split would hold out other rows, some of which the run has learned."""
    for path in (path for source in recipe.train_sources for path in sources.source_files(source)):
        if not path.exists() or place["files"].get(str(path)) != checksum(path):
            what = "the file has changed since the run began, so its validation rows are not known"
            raise RunError(what, where=str(path), fix="put it back, or give rows: bottega evaluate RUN --data FILE")


def _find_leaked(records: Sequence[Record], recipe: Recipe) -> set[int] | None:
    """Indices of the records that are training rows; None where those are gone, or streamed."""
    # Not known is not zero: the report says that leaks were not searched for.
    if any(source.stream for source in recipe.train_sources):
        return None
    with contextlib.suppress(DataError):
        return find_leaked_rows(records, RecipeReader(recipe).training())
    return None
