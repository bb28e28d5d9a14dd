"""Of classifiers, regressions and reward models: the right class, the right number, the better answer."""

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
from bottega.metrics.scores import Numbers, Scores, agreement, average, classes, share
from bottega.objectives.classify import Classify
from bottega.objectives.regress import Regress, number
from bottega.objectives.reward import Reward
from bottega.progress import progress_callback
from bottega.records import Labelled

DEFAULT_BASELINES = ("bm25", "dense")
"""What a classifier is compared with where nothing is said, besides the commonest label."""

ASKED = "{text}\nLabel:"
"""How a language model is asked for the label of a text, which follows after a space."""

Marked = Callable[[Classifier, Numbers, Sequence[Row]], list[Scores]]
"""What is made of a model's scores [R, C] of rows."""


def measure(case: EvaluationContext) -> Iterator[ModelResult]:
    """The run's sheet, that of the least that could be done, and its rivals'."""
    model = Classifier(str(case.folder), dtype=case.dtype)
    examples = case.examples(case.codec(model.codec))
    rows = [row for example in examples for row in example]
    if isinstance(case.recipe.objective, Reward):
        longer = [_is_longer(chosen, rejected, case.seed) for chosen, rejected in examples]
        marked, least = (
            _preferred,
            ModelResult("taking the longer answer", [share("preference accuracy", longer)], base=True),
        )
    elif isinstance(case.recipe.objective, Regress):
        marked, least = _errors, _mean(case, rows)
    else:
        case.tell("counting labels")
        counts = case.recipe.objective.labels(case.training())
        several = isinstance(case.recipe.objective, Classify) and case.recipe.objective.multi_label
        marked = _each_label if several else _one_label
        least = (_usual_labels if several else _usual_label)(model.labels, counts, rows)
    yield _sat(case, model, rows, marked)
    yield least
    for rival in case.means.rivals:
        sheet = _rival(case, model, rows, marked, rival)
        if sheet is not None:
            yield sheet


def _sat(
    case: EvaluationContext, model: Classifier, rows: Sequence[Row], marked: Marked, name: str = "the run"
) -> ModelResult:
    scores, named = model.scores(rows, progress_callback(case.tell, f"scoring {len(rows)} rows: {name}")), None
    if marked is _one_label:
        named = ClassPredictions(model.labels, _right(rows), scores.argmax(1), model.chances(scores).max(1))
    return ModelResult(name, marked(model, scores, rows), named)


# What is made of scores


def _preferred(model: Classifier, scores: Numbers, rows: Sequence[Row]) -> list[Scores]:
    """Of pairs, chosen first: how often its score is the higher."""
    return [share("preference accuracy", scores[0::2, 0] > scores[1::2, 0])]


def _errors(model: Classifier, scores: Numbers, rows: Sequence[Row]) -> list[Scores]:
    return _distances(scores[:, 0], np.array([row.label[0] for row in rows], float))


def _distances(found: Numbers, right: Numbers) -> list[Scores]:
    """How far numbers are from what is right."""
    return [
        average("mean error", np.abs(found - right), higher=False),
        average("root mean squared error", (found - right) ** 2, higher=False, of=np.sqrt),
    ]


def _one_label(model: Classifier, scores: Numbers, rows: Sequence[Row]) -> list[Scores]:
    """Of one label a text."""
    right = _right(rows)
    loss = -np.log(model.chances(scores))[np.arange(len(rows)), right]
    return [average("loss", loss, higher=False), *classes(right, scores.argmax(1), len(model.labels))]


def _each_label(model: Classifier, scores: Numbers, rows: Sequence[Row]) -> list[Scores]:
    """Of any number of labels a text."""
    return _agreeing(scores > 0, _present(rows))


def _agreeing(found: NDArray[np.bool_], right: NDArray[np.bool_]) -> list[Scores]:
    counts = np.stack([(found & right).sum(1), found.sum(1) + right.sum(1)], 1)
    return [share("all labels right", (found == right).all(1)), agreement("micro-F1", counts)]


def _right(rows: Sequence[Row]) -> NDArray[np.int64]:
    return np.array([row.label[0] for row in rows], np.int64)


def _present(rows: Sequence[Row]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.concatenate([row.columns["present"] for row in rows]) > 0
    return found


# The least that could be done


def _usual_label(labels: list[str], counts: dict[str, int], rows: Sequence[Row]) -> ModelResult:
    # One more of each: a label seen in no row has some chance all the same.
    frequency = np.array([counts.get(label, 0) + 1.0 for label in labels])
    frequency /= frequency.sum()
    right, common = _right(rows), np.full(len(rows), frequency.argmax())
    loss = average("loss", -np.log(frequency)[right], higher=False)
    name = f"always {labels[frequency.argmax()]}, the commonest label"
    return ModelResult(name, [loss, *classes(right, common, len(labels))], base=True)


def _usual_labels(labels: list[str], counts: dict[str, int], rows: Sequence[Row]) -> ModelResult:
    right = _present(rows)
    usual, common = max(counts, key=lambda label: counts[label]), np.zeros_like(right)
    common[:, labels.index(usual)] = True
    return ModelResult(f"always {usual}, the commonest label", _agreeing(common, right), base=True)


def _mean(case: EvaluationContext, rows: Sequence[Row]) -> ModelResult:
    training = [number(record) for record in case.known() if isinstance(record, Labelled)]
    usual, right = float(np.mean(training)), np.array([row.label[0] for row in rows], float)
    name = f"always {usual:.4g}, the mean of the {case.those_known}"
    return ModelResult(name, _distances(np.full_like(right, usual), right), base=True)


def _is_longer(chosen: Row, rejected: Row, seed: int) -> bool:
    """Whether the chosen answer has more tokens; of equals, by the toss of a coin."""
    difference = len(chosen.tokens) - len(rejected.tokens)
    return difference > 0 if difference else bool(random.Random(f"{seed} {chosen.tokens.tobytes()!r}").getrandbits(1))


# Rivals


def _rival(
    case: EvaluationContext, model: Classifier, rows: Sequence[Row], marked: Marked, rival: Baseline
) -> ModelResult | None:
    """The sheet of another contender; None where it cannot be asked, which `case.unasked` then tells."""
    if rival.way == "run":
        return _other(case, model, marked, rival)
    encoder = rival.model or case.means.encoder or case.recipe.model.base
    if rival.way == "dense" and encoder is None:
        case.unasked[rival.given] = "which encoder makes the vectors? dense=FOLDER"
    elif rival.way in ("bm25", "dense", "few-shot") and not case.pool:
        case.unasked[rival.given] = f"the {case.those_known} are not to be had"
    elif rival.way in ("bm25", "dense") and marked is _errors:
        return _near_numbers(case, rows, rival, encoder if rival.way == "dense" else None)
    elif marked is not _one_label:
        case.unasked[rival.given] = "it gives no such answer as these rows ask for"
    elif rival.way in ("bm25", "dense"):
        return score_nearest_rows(
            case, _questions(case, model), rival, _known(case), encoder if rival.way == "dense" else None
        )
    elif rival.way == "endpoint":
        return score_endpoint(case, _questions(case, model), rival)
    elif rival.model is None:
        case.unasked[rival.given] = f"which language model is asked? {rival.way}=FOLDER"
    elif rival.way == "retrieval" and not case.means.documents:
        case.unasked[rival.given] = "no --documents to look things up in"
    else:
        other = LanguageModel(rival.model, dtype=case.dtype)
        sheet = score_prompted(case, _questions(case, model), other, rival.named(), rival, _known(case))
        # Its loss is one of words, not of classes.
        return replace(sheet, scores=[one for one in sheet.scores if one.metric in ("label accuracy", "macro-F1")])
    return None


def _questions(case: EvaluationContext, model: Classifier) -> EvaluationSet:
    """The rows as questions for a model of language."""
    texts = [record for record in case.records if isinstance(record, Labelled)]
    asked = [Question(one.where, ASKED.format(text=one.text), f" {one.label}") for one in texts]
    return EvaluationSet(questions=asked, labels=[f" {label}" for label in model.labels])


def _known(case: EvaluationContext) -> list[Shot]:
    known = (record for record in case.pool if isinstance(record, Labelled))
    return [Shot(ASKED.format(text=one.text), f" {one.label}") for one in known]


def _near_numbers(case: EvaluationContext, rows: Sequence[Row], rival: Baseline, encoder: str | None) -> ModelResult:
    """The mean of the numbers of the nearest training rows, each counting as much as it is near."""
    known = [record for record in case.pool if isinstance(record, Labelled)]
    texts = [record.text for record in known]
    asked = [record.text for record in case.records if isinstance(record, Labelled)]
    numbers, nearness = case.index(texts, encoder).nearest(asked, NEIGHBORS)
    values, weight = np.array([number(record) for record in known]), np.maximum(nearness, 0)
    # What is like no other row gets the mean of all.
    weighed = (values[numbers] * weight).sum(1) / np.maximum(weight.sum(1), np.finfo(np.float32).tiny)
    found = np.where(weight.any(1), weighed, values.mean())
    return ModelResult(
        f"nearest {case.those_known}, {rival.way}", _distances(found, np.array([row.label[0] for row in rows], float))
    )


def _other(case: EvaluationContext, model: Classifier, marked: Marked, rival: Baseline) -> ModelResult | None:
    """Another run, asked the same."""
    assert rival.model is not None
    other = Classifier(rival.model, dtype=case.dtype)
    if list(other.labels) != list(model.labels):
        case.unasked[rival.given] = "it knows other labels"
        return None
    before = list(case.records)
    rows = [row for example in case.examples(case.codec(other.codec)) for row in example]
    if len(case.records) != len(before):
        case.records = before
        case.unasked[rival.given] = "it cannot read all of these rows"
        return None
    return _sat(case, other, rows, marked, rival.named())
