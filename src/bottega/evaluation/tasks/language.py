"""Evaluation of language models: loss, preferences, the labels and choices they prefer, the answers they generate."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bottega.batch import Row
from bottega.evaluation import reward_scores
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.exam import (
    EvaluationSet,
    Question,
    expand,
    score_endpoint,
    score_model,
    score_nearest_rows,
    score_prompted,
)
from bottega.evaluation.lm_eval import run_lm_eval
from bottega.evaluation.prompting import Shot
from bottega.evaluation.side_effects import side_effects
from bottega.inference.language_model import LanguageModel
from bottega.metrics.scores import Floats, Scores, proportion, weighted_mean
from bottega.records import Chat, Choice, Posed, Preference, Record

# Rows with a longer reference answer are not generated: metrics of long texts say little, and they are slow.
MAX_ANSWER_TOKENS = 256

# Answers count as labels where there are at most so many different ones, each with so many rows on average.
MAX_LABELS, ROWS_PER_LABEL = 50, 4

# The baselines of a run where the user names none, besides its base model.
DEFAULT_BASELINES = ("few-shot", "bm25")

# The examples of each record.
Encoded = Sequence[Sequence[tuple[Row, ...]]]


def measure(context: EvaluationContext) -> Iterator[ModelResult]:
    """The results of the run, of its base model if it has one, and of the further baselines."""
    model = LanguageModel(str(context.folder), dtype=context.dtype)
    objective = context.recipe.objective
    # Prompts without reference answers have no loss: only generated answers can be scored.
    if objective.on_policy and not any(map(objective.prompt_and_reference, context.records)):
        yield from reward_scores.measure(context, model)
        return
    examples = context.build_examples(context.codec(model.codec))
    records, rows = examples.records, _flatten(examples.values)
    context.progress(f"scoring {len(rows)} rows")
    results = _measure_preferences if _is_preference(records, rows) else _measure_answers
    # The first result is the run's.
    for number, result in enumerate(results(context, model, records, rows)):
        yield result if number else replace(result, records=records, dropped=examples.dropped)


def _flatten(examples: Encoded) -> list[Row]:
    return [row for record in examples for example in record for row in example]


def _measure_answers(
    context: EvaluationContext, model: LanguageModel, records: Sequence[Record], rows: Sequence[Row]
) -> Iterator[ModelResult]:
    questions = _build_questions(context, records, rows)
    yield _add_side_effects(context, model, records, score_model(context, questions, model, "the run"))
    if model.origin is not None:
        base = Path(model.origin).name
        with model.untuned() as untuned:
            result = score_model(context, questions, untuned, base)
            yield replace(_add_side_effects(context, untuned, records, result), base=True)
    for baseline in context.baselines:
        compared = _score_baseline(context, questions, model, records, baseline)
        if compared is not None:
            yield compared


def _add_side_effects(
    context: EvaluationContext, model: LanguageModel, records: Sequence[Record], result: ModelResult
) -> ModelResult:
    """The result with side effects, and scores in tasks of the lm-evaluation-harness."""
    context.progress(f"measuring side effects: {result.name}")
    result = replace(result, effects=side_effects(context, model, records))
    tasks = context.options.lm_eval
    if not tasks:
        return result
    context.progress(f"running {len(tasks)} lm-eval tasks: {result.name}")
    return replace(result, scores=[*result.scores, *run_lm_eval(model, tasks, rows=context.options.rows)])


def _build_questions(context: EvaluationContext, records: Sequence[Record], rows: Sequence[Row]) -> EvaluationSet:
    """The rows, and the questions among them; a long text that is cut into several rows has none."""
    if len(rows) != len(records):
        return EvaluationSet(rows)
    objective = context.recipe.objective
    posed = [_question(context, record, row) for record, row in zip(records, rows, strict=True)]
    indexed = [(index, question) for index, question in enumerate(posed) if question is not None]
    answers = [question.answer for _, question in indexed]
    labels = sorted(set(answers))
    are_labels = 1 < len(labels) <= min(MAX_LABELS, len(answers) // ROWS_PER_LABEL)
    short = [index for index, question in indexed if question.answer_length <= MAX_ANSWER_TOKENS]
    # A random part, as generation is slow; the same rows for every model.
    generated = sorted(random.Random(context.seed).sample(short, min(context.options.answers, len(short))))
    metrics, missing = context.metrics(answers) if answers else ([], [])
    if missing:
        context.note(", ".join(missing), "needs a package: pip install 'bottega[evaluate]'")
    questions = EvaluationSet(rows, posed, labels if are_labels else [], generated, metrics)
    if on_policy := objective.on_policy:
        return replace(questions, min_tokens=on_policy.tokens, stop=on_policy.stop)
    return questions


def _question(context: EvaluationContext, record: Record, row: Row) -> Question | None:
    """The prompt and the answer of a record; None where it is not a prompt, or its answer is blank."""
    pair = context.recipe.objective.prompt_and_reference(record)
    if pair is None or not pair[1].strip():
        return None
    choices = record.choices if isinstance(record, Choice) else ()
    variables = record.variables if isinstance(record, (Chat, Posed)) else {}
    return Question(record.where, *pair, row, choices, variables)


# Preferences


def _is_preference(records: Sequence[Record], rows: Sequence[Row]) -> bool:
    """Whether rows are chosen and rejected answers in turn; KTO makes two examples of such a pair, DPO one."""
    return len(rows) == 2 * len(records) and all(isinstance(record, Preference) for record in records)


def _measure_preferences(
    context: EvaluationContext, model: LanguageModel, records: Sequence[Record], rows: Sequence[Row]
) -> Iterator[ModelResult]:
    """How often the chosen answer is more likely, and how often its likelihood rose more than the other's."""
    nll, base_nll = -model.logp(rows), None  # [2R]
    if model.origin is not None:
        with model.untuned() as untuned:
            base_nll = -untuned.logp(rows)
    scores = _score_preferences(rows, nll)
    if base_nll is not None:
        gain = base_nll - nll  # the implicit reward of DPO, but for its β
        scores.insert(1, proportion("implicit_reward_accuracy", gain[0::2] > gain[1::2]))
    yield ModelResult("the run", scores)
    if base_nll is not None and model.origin is not None:
        yield ModelResult(Path(model.origin).name, _score_preferences(rows, base_nll), base=True)
    for baseline in context.baselines:
        result = _score_preference_baseline(context, model, records, baseline)
        if result is not None:
            yield result


def _score_preference_baseline(
    context: EvaluationContext, model: LanguageModel, records: Sequence[Record], baseline: Baseline
) -> ModelResult | None:
    if baseline.method not in ("run", "zero-shot") or baseline.model is None:
        context.note(baseline.spec, "it gives no probability to an answer")
        return None
    other = LanguageModel(baseline.model, dtype=context.dtype)
    indices, rows = _encode_same(context, records, other, baseline)
    if not indices:
        return None
    scores = _comparable(_score_preferences(rows, -other.logp(rows)), model, other)
    return ModelResult(baseline.describe(), [each.within(indices, len(records)) for each in scores])


def _encode_same(
    context: EvaluationContext, records: Sequence[Record], other: LanguageModel, baseline: Baseline
) -> tuple[list[int], list[Row]]:
    """(indices of the records that another model can read, all their rows)."""
    codec, objective = context.codec(other.codec), context.recipe.objective
    indices, examples = context.build_same(
        baseline.spec, records, lambda record: objective.evaluation_rows(record, codec)
    )
    return indices, _flatten(examples)


def _score_preferences(rows: Sequence[Row], nll: Floats) -> list[Scores]:
    tokens = np.array([row.weight.sum() for row in rows[0::2]], float)
    return [
        proportion("preference_accuracy", nll[0::2] < nll[1::2]),
        weighted_mean("chosen_loss", nll[0::2], tokens),
    ]


# Further baselines


def _score_baseline(
    context: EvaluationContext,
    questions: EvaluationSet,
    model: LanguageModel,
    records: Sequence[Record],
    baseline: Baseline,
) -> ModelResult | None:
    """The result of a further baseline; None where it cannot be scored, which is noted."""
    if baseline.method == "run" or (baseline.method == "zero-shot" and baseline.model):
        return _score_other_model(context, questions, model, records, baseline)
    # Examples come from the training rows, never from the rows that are evaluated.
    shots = _shots(context)
    reason = _why_not(context, questions, model, baseline, shots)
    if reason is not None:
        context.note(baseline.spec, reason)
        return None
    if baseline.method == "endpoint":
        return score_endpoint(context, questions, baseline)
    if baseline.method in ("bm25", "dense"):
        encoder = (baseline.model or context.options.encoder) if baseline.method == "dense" else None
        return score_nearest_rows(context, questions, baseline, shots, encoder)
    name = baseline.describe(None if model.origin is None else Path(model.origin).name)
    if baseline.model is not None:
        other = LanguageModel(baseline.model, dtype=context.dtype)
        result = score_prompted(context, questions, other, name, baseline, shots)
        return replace(result, scores=_comparable(result.scores, model, other))
    with model.untuned() as untuned:
        return score_prompted(context, questions, untuned, name, baseline, shots)


def _why_not(
    context: EvaluationContext,
    questions: EvaluationSet,
    model: LanguageModel,
    baseline: Baseline,
    shots: Sequence[Shot],
) -> str | None:
    """Why a baseline cannot be scored; None where it can."""
    method = baseline.method
    if not questions.indexed:
        return "the rows are not prompts with answers"
    if method == "dense" and context.options.encoder is None and baseline.model is None:
        return "no encoder given: dense=FOLDER"
    if method in ("few-shot", "bm25", "dense") and not shots:
        return "no available training row is a prompt with an answer"
    if method in ("zero-shot", "few-shot", "retrieval") and baseline.model is None and model.origin is None:
        return f"the run has no base model; name one: {method}=FOLDER"
    if method == "retrieval" and not context.passages:
        return "no texts to search: give --documents"
    if method == "endpoint" and not questions.labels and not questions.generated:
        return "no answer is short enough to be generated"
    return None


def _shots(context: EvaluationContext) -> list[Shot]:
    """The training rows that are prompts with answers."""
    pairs = (context.recipe.objective.prompt_and_reference(record) for record in context.pool)
    return [Shot(*pair) for pair in pairs if pair is not None and pair[1].strip()]


def _score_other_model(
    context: EvaluationContext,
    questions: EvaluationSet,
    model: LanguageModel,
    records: Sequence[Record],
    baseline: Baseline,
) -> ModelResult | None:
    """Another run, or another model as it is, on the same rows."""
    assert baseline.model is not None
    other = LanguageModel(baseline.model, dtype=context.dtype)
    indices, rows = _encode_same(context, records, other, baseline)
    if not indices:
        return None
    # Where texts are cut into several rows, those of another tokenizer begin and end elsewhere.
    in_pieces = not questions.questions
    if in_pieces and (len(indices) < len(records) or len(rows) != len(questions.rows)):
        context.note(baseline.spec, "it splits these texts at other places, so that losses cannot be compared")
        return None
    if in_pieces:
        result = score_model(context, replace(questions, rows=rows), other, baseline.describe())
    else:
        theirs = [
            None if (question := questions.questions[index]) is None else replace(question, row=row)
            for index, row in zip(indices, rows, strict=True)
        ]
        part = replace(questions.select(indices, theirs), rows=rows)
        result = expand(score_model(context, part, other, baseline.describe()), indices, len(records))
    return replace(result, scores=_comparable(result.scores, model, other))


def _comparable(scores: Sequence[Scores], model: LanguageModel, other: LanguageModel) -> list[Scores]:
    """The scores without those per token, where the two vocabularies differ: their tokens are not the same unit."""
    same = model.codec.tokenizer.get_vocab() == other.codec.tokenizer.get_vocab()
    return [each for each in scores if same or each.metric not in ("loss", "perplexity", "chosen_loss")]
