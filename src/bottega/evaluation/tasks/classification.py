"""Evaluation of classifiers, regressions and reward models: accuracy and F1, errors, preference accuracy."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.exam import (
    NEIGHBORS,
    EvaluationSet,
    Question,
    score_endpoint,
    score_nearest_rows,
    score_prompted,
)
from bottega.evaluation.prompting import Shot
from bottega.inference.classifier import Classifier
from bottega.inference.language_model import LanguageModel
from bottega.metrics.scores import Floats, Scores, class_scores, micro_f1, proportion, row_mean
from bottega.objectives import parse_number
from bottega.progress import progress_callback
from bottega.records import Labelled, Record

# The baselines of a classifier where the user names none, besides the most frequent label.
DEFAULT_BASELINES = ("bm25", "dense")

# The prompt that asks a language model for a label; the label follows after a space.
PROMPT = "{text}\nLabel:"

# Metrics of the scores [R, C] that a model gives to rows.
ScoreRows = Callable[[Classifier, Floats, Sequence[Row]], list[Scores]]


def measure(context: EvaluationContext) -> Iterator[ModelResult]:
    """The results of the run, of a trivial baseline, and of the further baselines."""
    model = Classifier(str(context.folder), dtype=context.dtype)
    examples = context.build_examples(context.codec(model.codec))
    rows = _flatten(examples.values)
    objective = context.recipe.objective
    if objective.prediction == "preference":
        score, trivial = _score_preferences, _longer_answer(context, rows)
    elif objective.prediction == "number":
        score, trivial = _score_numbers, _mean_baseline(context, rows)
    else:
        context.progress("counting labels")
        counts = objective.count_labels(context.training_records())
        several = objective.prediction == "classes"
        score = _score_multi_label if several else _score_single_label
        trivial = (_most_frequent_of_several if several else _most_frequent)(model.labels, counts, rows)
    run = _score_model(context, model, rows, score)
    yield replace(run, records=examples.records, dropped=examples.dropped)
    yield trivial
    for baseline in context.baselines:
        result = _score_baseline(context, model, examples.records, rows, score, baseline)
        if result is not None:
            yield result


def _flatten(examples: Sequence[Sequence[tuple[Row, ...]]]) -> list[Row]:
    return [row for record in examples for example in record for row in example]


def _score_model(
    context: EvaluationContext, model: Classifier, rows: Sequence[Row], score: ScoreRows, name: str = "the run"
) -> ModelResult:
    logits = model.scores(rows, progress_callback(context.progress, f"scoring {len(rows)} rows: {name}"))  # [R, C]
    predictions = None
    if score is _score_single_label:
        confidence = model.probabilities(logits).max(1)
        predictions = ClassPredictions(model.labels, _labels(rows), logits.argmax(1), confidence)
    return ModelResult(name, score(model, logits, rows), predictions)


# Metrics


def _score_preferences(model: Classifier, logits: Floats, rows: Sequence[Row]) -> list[Scores]:
    """How often the chosen answer has the higher score; rows are chosen and rejected answers in turn."""
    return [proportion("preference_accuracy", logits[0::2, 0] > logits[1::2, 0])]


def _score_numbers(model: Classifier, logits: Floats, rows: Sequence[Row]) -> list[Scores]:
    return _errors(logits[:, 0], _targets(rows))


def _errors(predicted: Floats, targets: Floats) -> list[Scores]:
    """Errors of predicted numbers, both [R]."""
    return [
        row_mean("mae", np.abs(predicted - targets), higher=False),
        row_mean("rmse", (predicted - targets) ** 2, higher=False, transform=np.sqrt),
    ]


def _score_single_label(model: Classifier, logits: Floats, rows: Sequence[Row]) -> list[Scores]:
    labels = _labels(rows)
    loss = -np.log(model.probabilities(logits))[np.arange(len(rows)), labels]
    return [row_mean("loss", loss, higher=False), *class_scores(labels, logits.argmax(1), len(model.labels))]


def _score_multi_label(model: Classifier, logits: Floats, rows: Sequence[Row]) -> list[Scores]:
    # A logit above 0 is a probability above one half.
    return _label_sets(logits > 0, _label_matrix(rows))


def _label_sets(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> list[Scores]:
    """Metrics of sets of labels, both [R, C]."""
    counts = np.stack([(predicted & labels).sum(1), predicted.sum(1) + labels.sum(1)], 1)
    return [proportion("subset_accuracy", (predicted == labels).all(1)), micro_f1("f1_micro", counts)]


def _labels(rows: Sequence[Row]) -> NDArray[np.int64]:
    return np.array([row.label[0] for row in rows], np.int64)  # [R]


def _targets(rows: Sequence[Row]) -> Floats:
    return np.array([row.label[0] for row in rows], float)  # [R]


def _label_matrix(rows: Sequence[Row]) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = np.concatenate([row.columns["present"] for row in rows]) > 0  # [R, C]
    return present


# Trivial baselines


def _most_frequent(labels: list[str], counts: dict[str, int], rows: Sequence[Row]) -> ModelResult:
    """The most frequent label for every text; its loss is that of the label frequencies."""
    # Add-one smoothing: a label that no training row has would make the loss infinite.
    frequency = np.array([counts.get(label, 0) + 1.0 for label in labels])  # [C]
    frequency /= frequency.sum()
    references, predicted = _labels(rows), np.full(len(rows), frequency.argmax())
    loss = row_mean("loss", -np.log(frequency)[references], higher=False)
    name = f"always {labels[frequency.argmax()]}, the most frequent label"
    return ModelResult(name, [loss, *class_scores(references, predicted, len(labels))], base=True)


def _most_frequent_of_several(labels: list[str], counts: dict[str, int], rows: Sequence[Row]) -> ModelResult:
    references = _label_matrix(rows)
    label, predicted = max(counts, key=lambda name: counts[name]), np.zeros_like(references)
    predicted[:, labels.index(label)] = True
    return ModelResult(f"always {label}, the most frequent label", _label_sets(predicted, references), base=True)


def _mean_baseline(context: EvaluationContext, rows: Sequence[Row]) -> ModelResult:
    training = [parse_number(record) for record in context.baseline_records() if isinstance(record, Labelled)]
    mean, targets = float(np.mean(training)), _targets(rows)
    name = f"always {mean:.4g}, the mean of the {context.baseline_rows}"
    return ModelResult(name, _errors(np.full_like(targets, mean), targets), base=True)


def _longer_answer(context: EvaluationContext, rows: Sequence[Row]) -> ModelResult:
    longer = [_is_longer(*pair, context.seed) for pair in zip(rows[0::2], rows[1::2], strict=True)]
    return ModelResult("taking the longer answer", [proportion("preference_accuracy", longer)], base=True)


def _is_longer(chosen: Row, rejected: Row, seed: int) -> bool:
    """Whether the chosen answer has more tokens; random where both have as many."""
    difference = len(chosen.tokens) - len(rejected.tokens)
    # Seeded by the answer itself, so that the result does not depend on which other rows are measured.
    return difference > 0 if difference else bool(random.Random(f"{seed} {chosen.tokens.tobytes()!r}").getrandbits(1))


# Further baselines


def _score_baseline(
    context: EvaluationContext,
    model: Classifier,
    records: Sequence[Record],
    rows: Sequence[Row],
    score: ScoreRows,
    baseline: Baseline,
) -> ModelResult | None:
    """The result of a further baseline; None where it cannot be scored, which is noted."""
    if baseline.method == "run":
        return _score_other_run(context, model, records, score, baseline)
    # A classifier's own base model serves as the encoder: what embeddings alone give, without training.
    encoder = baseline.model or context.options.encoder or context.recipe.model.base
    reason = _why_not(context, score, baseline, encoder)
    if reason is not None:
        context.note(baseline.spec, reason)
        return None
    if baseline.method in ("bm25", "dense"):
        encoder = encoder if baseline.method == "dense" else None
        if score is _score_numbers:
            return _nearest_numbers(context, records, rows, baseline, encoder)
        return score_nearest_rows(context, _questions(records, model), baseline, _shots(context), encoder)
    if baseline.method == "endpoint":
        return score_endpoint(context, _questions(records, model), baseline)
    assert baseline.model is not None
    other, name = LanguageModel(baseline.model, dtype=context.dtype), baseline.describe()
    result = score_prompted(context, _questions(records, model), other, name, baseline, _shots(context))
    # The loss of a language model is per token, that of a classifier per row: they cannot be compared.
    comparable = [scores for scores in result.scores if scores.metric in ("accuracy", "f1_macro")]
    return replace(result, scores=comparable)


def _why_not(context: EvaluationContext, score: ScoreRows, baseline: Baseline, encoder: str | None) -> str | None:
    """Why a baseline cannot be scored; None where it can."""
    method = baseline.method
    if method == "dense" and encoder is None:
        return "no encoder given: dense=FOLDER"
    if method in ("bm25", "dense", "few-shot") and not context.pool:
        return f"the {context.baseline_rows} are not available"
    if method in ("bm25", "dense") and score is _score_numbers:
        return None
    if score is not _score_single_label:
        return "it gives no answer of the kind that these rows need"
    if method in ("bm25", "dense", "endpoint"):
        return None
    if baseline.model is None:
        return f"no language model given: {method}=FOLDER"
    if method == "retrieval" and not context.passages:
        return "no texts to search: give --documents"
    return None


def _questions(records: Sequence[Record], model: Classifier) -> EvaluationSet:
    """The rows as prompts for a language model."""
    texts = [record for record in records if isinstance(record, Labelled)]
    questions = [Question(record.where, PROMPT.format(text=record.text), f" {record.label}") for record in texts]
    return EvaluationSet(questions=questions, labels=[f" {label}" for label in model.labels])


def _shots(context: EvaluationContext) -> list[Shot]:
    known = (record for record in context.pool if isinstance(record, Labelled))
    return [Shot(PROMPT.format(text=record.text), f" {record.label}") for record in known]


def _nearest_numbers(
    context: EvaluationContext, records: Sequence[Record], rows: Sequence[Row], baseline: Baseline, encoder: str | None
) -> ModelResult:
    """The mean number of the nearest training rows, weighted by similarity."""
    known = [record for record in context.pool if isinstance(record, Labelled)]
    queries = [record.text for record in records if isinstance(record, Labelled)]
    retriever = context.retriever([record.text for record in known], encoder)
    indices, similarity = retriever.nearest(queries, NEIGHBORS)  # [R, K] each
    # A cosine may be negative; such a neighbor counts for nothing rather than with the wrong sign.
    values, weights = np.array([parse_number(record) for record in known]), np.maximum(similarity, 0)
    weighted = (values[indices] * weights).sum(1) / np.maximum(weights.sum(1), np.finfo(np.float32).tiny)
    # A text similar to no row gets the mean of all.
    predicted = np.where(weights.any(1), weighted, values.mean())
    return ModelResult(f"nearest {context.baseline_rows}, {baseline.method}", _errors(predicted, _targets(rows)))


def _score_other_run(
    context: EvaluationContext, model: Classifier, records: Sequence[Record], score: ScoreRows, baseline: Baseline
) -> ModelResult | None:
    """Another run on the same rows."""
    assert baseline.model is not None
    other = Classifier(baseline.model, dtype=context.dtype)
    # Also another order: predictions and references are indices of labels.
    if list(other.labels) != list(model.labels):
        context.note(baseline.spec, "it has other labels")
        return None
    codec, objective = context.codec(other.codec), context.recipe.objective
    indices, examples = context.build_same(
        baseline.spec, records, lambda record: objective.evaluation_rows(record, codec)
    )
    if not indices:
        return None
    result = _score_model(context, other, _flatten(examples), score, baseline.describe())
    return replace(result, scores=[scores.within(indices, len(records)) for scores in result.scores])
