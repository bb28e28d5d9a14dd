"""Of language models: how likely the right words are, which answer they choose, and what they write."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bottega.evaluation import reward_scores
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.exam import (
    EvaluationSet,
    Question,
    score_endpoint,
    score_model,
    score_nearest_rows,
    score_prompted,
)
from bottega.evaluation.lm_eval import run_lm_eval
from bottega.evaluation.prompting import Shot
from bottega.evaluation.side_effects import side_effects
from bottega.inference.language_model import LanguageModel
from bottega.metrics.scores import Numbers, Scores, mean, share
from bottega.objectives import OnPolicy
from bottega.records import Chat, Choice, Posed, Preference
from bottega.tokenization.codec import Codec

LONGEST = 256
"""Most tokens of an answer that is written out; rows with a longer one are left out of it."""

LABELS, EACH = 50, 4
"""Answers are labels where there are at most so many different ones, each so often on average."""

DEFAULT_BASELINES = ("few-shot", "bm25")
"""What a run is compared with where nothing is said, besides what it was tuned from."""


def measure(case: EvaluationContext) -> Iterator[ModelResult]:
    """The run's sheet, that of what it was tuned from, if it was, and its rivals'."""
    model = LanguageModel(str(case.folder), dtype=case.dtype)
    if isinstance(case.recipe.objective, OnPolicy) and not any(map(case.recipe.objective.asked, case.records)):
        yield from reward_scores.measure(case, model)
        return
    codec = case.codec(model.codec)
    exam = _exam(case, codec)
    case.tell(f"scoring {len(exam.rows)} rows")
    if _in_pairs(case, exam):
        yield from _preferences(case, exam, model)
        return
    yield _examined(case, model, score_model(case, exam, model, "the run"))
    base = None if model.origin is None else Path(model.origin).name
    if base is not None:
        with model.untuned() as untuned:
            yield replace(_examined(case, untuned, score_model(case, exam, untuned, base)), base=True)
    for rival in case.means.rivals:
        sheet = _rival(case, exam, model, rival)
        if sheet is not None:
            yield sheet


def _examined(case: EvaluationContext, model: LanguageModel, sheet: ModelResult) -> ModelResult:
    """The sheet with what else the model does, and its marks in tasks of the lm-evaluation-harness."""
    case.tell(f"looking for side effects: {sheet.name}")
    sheet = replace(sheet, effects=side_effects(case, model))
    if not case.means.tasks:
        return sheet
    case.tell(f"sitting {len(case.means.tasks)} tasks of lm-eval: {sheet.name}")
    return replace(sheet, scores=[*sheet.scores, *run_lm_eval(model, case.means.tasks, rows=case.means.questions)])


def _exam(case: EvaluationContext, codec: Codec) -> EvaluationSet:
    rows = [row for example in case.examples(codec) for row in example]
    if len(rows) != len(case.records):
        return EvaluationSet(rows)
    questions: list[Question | None] = []
    for record, row in zip(case.records, rows, strict=True):
        found = case.recipe.objective.asked(record)
        choices = record.choices if isinstance(record, Choice) else ()
        variables = record.variables if isinstance(record, (Chat, Posed)) else {}
        sound = found is not None and found[1].strip()
        questions.append(Question(record.where, *found, row, choices, variables) if found and sound else None)
    asked = [(place, one) for place, one in enumerate(questions) if one is not None]
    names = sorted({one.answer for _, one in asked})
    few = 1 < len(names) <= min(LABELS, len(asked) // EACH)
    short = [place for place, one in asked if one.length <= LONGEST]
    written = sorted(random.Random(case.seed).sample(short, min(case.means.answers, len(short))))
    metrics, absent = case.means.metrics([one.answer for _, one in asked]) if asked else ([], [])
    if absent:
        case.unasked[", ".join(absent)] = "needs a package: pip install 'bottega[evaluate]'"
    exam = EvaluationSet(rows, questions, names if few else [], written, metrics)
    objective = case.recipe.objective
    return replace(exam, tokens=objective.tokens, stop=objective.stop) if isinstance(objective, OnPolicy) else exam


# Preferences


def _in_pairs(case: EvaluationContext, exam: EvaluationSet) -> bool:
    """Whether rows are chosen and rejected answers in turn: KTO takes the two for two examples."""
    pairs = len(exam.rows) == 2 * len(case.records)
    return pairs and all(isinstance(record, Preference) for record in case.records)


def _preferences(case: EvaluationContext, exam: EvaluationSet, model: LanguageModel) -> Iterator[ModelResult]:
    """How often the chosen answer is likelier, and how often it was raised more than the other."""
    nll, base = -model.logp(exam.rows), None
    if model.origin is not None:
        with model.untuned() as untuned:
            base = -untuned.logp(exam.rows)
    scores = _preferred(exam, nll)
    if base is not None:
        raised = base - nll
        scores.insert(1, share("raised accuracy", raised[0::2] > raised[1::2]))
    yield ModelResult("the run", scores)
    if base is not None and model.origin is not None:
        yield ModelResult(Path(model.origin).name, _preferred(exam, base), base=True)
    for rival in case.means.rivals:
        if rival.way not in ("run", "zero-shot") or rival.model is None:
            case.unasked[rival.given] = "it gives no probability to an answer"
            continue
        other = LanguageModel(rival.model, dtype=case.dtype)
        theirs = _exam(case, case.codec(other.codec))
        yield ModelResult(rival.named(), _comparable(_preferred(theirs, -other.logp(theirs.rows)), model, other))


def _preferred(exam: EvaluationSet, nll: Numbers) -> list[Scores]:
    tokens = np.array([row.weight.sum() for row in exam.rows[0::2]], float)
    return [share("preference accuracy", nll[0::2] < nll[1::2]), mean("loss of the chosen", nll[0::2], tokens)]


# Rivals


def _rival(case: EvaluationContext, exam: EvaluationSet, model: LanguageModel, rival: Baseline) -> ModelResult | None:
    """The sheet of another contender; None where it cannot be asked, which `case.unasked` then tells."""
    if rival.way == "run" or (rival.way == "zero-shot" and rival.model):
        return _other(case, exam, model, rival)
    known = _known(case)
    why = _why_not(case, exam, model, rival, known)
    if why is not None:
        case.unasked[rival.given] = why
        return None
    if rival.way == "endpoint":
        return score_endpoint(case, exam, rival)
    if rival.way in ("bm25", "dense"):
        return score_nearest_rows(
            case, exam, rival, known, (rival.model or case.means.encoder) if rival.way == "dense" else None
        )
    name = rival.named(None if model.origin is None else Path(model.origin).name)
    if rival.model is not None:
        other = LanguageModel(rival.model, dtype=case.dtype)
        sheet = score_prompted(case, exam, other, name, rival, known)
        return replace(sheet, scores=_comparable(sheet.scores, model, other))
    with model.untuned() as untuned:
        return score_prompted(case, exam, untuned, name, rival, known)


def _why_not(
    case: EvaluationContext, exam: EvaluationSet, model: LanguageModel, rival: Baseline, known: Sequence[Shot]
) -> str | None:
    """Why a contender cannot be asked."""
    if not exam.numbered:
        return "the rows ask nothing that could be answered"
    if rival.way == "dense" and case.means.encoder is None and rival.model is None:
        return "which encoder makes the vectors? dense=FOLDER"
    if rival.way in ("few-shot", "bm25", "dense") and not known:
        return "no training row that is to be had is a question with an answer"
    if rival.way in ("zero-shot", "few-shot", "retrieval") and rival.model is None and model.origin is None:
        return f"the run began from nothing; name a model: {rival.way}=FOLDER"
    if rival.way == "retrieval" and not case.means.documents:
        return "no --documents to look things up in"
    if rival.way == "endpoint" and not exam.labels and not exam.written:
        return "no answer is short enough to be written out"
    return None


def _known(case: EvaluationContext) -> list[Shot]:
    """The training rows that ask something, and the answers."""
    found = (case.recipe.objective.asked(record) for record in case.pool)
    return [Shot(*one) for one in found if one is not None and one[1].strip()]


def _other(case: EvaluationContext, exam: EvaluationSet, model: LanguageModel, rival: Baseline) -> ModelResult | None:
    """Another run, or another model as it is, asked the same."""
    assert rival.model is not None
    other = LanguageModel(rival.model, dtype=case.dtype)
    before, dropped = case.records, Counter(case.dropped)
    theirs = _exam(case, case.codec(other.codec))
    if len(theirs.rows) != len(exam.rows) or len(case.records) != len(before):
        case.records, case.dropped = before, dropped
        case.unasked[rival.given] = "it reads these rows in other pieces, or cannot read them all"
        return None
    theirs = replace(theirs, labels=exam.labels, written=exam.written, metrics=exam.metrics)
    sheet = score_model(case, theirs, other, rival.named())
    return replace(sheet, scores=_comparable(sheet.scores, model, other))


def _comparable(scores: Sequence[Scores], model: LanguageModel, other: LanguageModel) -> list[Scores]:
    """The scores without those that count tokens, where two models have other ones."""
    ours, theirs = model.codec.tokenizer.get_vocab(), other.codec.tokenizer.get_vocab()
    return [one for one in scores if ours == theirs or one.metric not in ("loss", "perplexity", "loss of the chosen")]
