"""Score an evaluation set of prompts: by a language model, by the answers of the nearest known rows, by a server."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.cost import Cost
from bottega.evaluation.llm_judge import judge_answers
from bottega.evaluation.openai_client import Endpoint, mean_cost
from bottega.evaluation.prompting import (
    MAX_PROMPT_TOKENS,
    PASSAGES_PER_QUESTION,
    SEPARATOR,
    PromptBuilder,
    Shot,
    fit_prompt,
    leading_label,
    query_text,
    with_passages,
    with_shots,
)
from bottega.evaluation.reward_scores import GeneratedAnswer, reward_scores
from bottega.inference.language_model import LanguageModel
from bottega.metrics.answers import Metric
from bottega.metrics.scores import Floats, Scores, class_scores, proportion, weighted_mean
from bottega.progress import ProgressCallback, progress_callback
from bottega.records import Prompt, Unusable, Variables
from bottega.sampling import Sampling
from bottega.tokenization.codec import Codec

# Nearest training rows that vote on an answer, weighted by similarity.
NEIGHBORS = 5

# A server's tokenizer is not known, so a label gets more tokens than any needs.
MAX_LABEL_TOKENS = 64


@dataclass(frozen=True)
class Question:
    """A prompt and its reference answer.

    row        prompt and answer, as a model reads them
    choices    the answers to choose from, where the record lists them
    variables  variables of the chat template beside the prompt
    """

    where: str
    prompt: Prompt
    answer: str
    row: Row | None = None
    choices: tuple[str, ...] = ()
    variables: Variables = field(default_factory=dict)

    def row_with(self, codec: Codec, answer: str) -> Row:
        """The row of the prompt with another answer."""
        return codec.encode_completion(self.where, self.prompt, answer, variables=self.variables)

    @property
    def prompt_tokens(self) -> list[int]:
        """The tokens before the answer, cut from the row as training saw it.

        The prompt alone may be tokenized differently: a tokenizer may merge a space at its end with the answer.
        """
        assert self.row is not None
        # An encoder–decoder reads the prompt apart from the answer.
        if self.row.source is not None:
            source: list[int] = self.row.source.tolist()
            return source
        at = self.row.at[self.row.weight > 0]
        # Of a conversation every answer has loss; the last run of adjacent positions is the last answer.
        begins = np.flatnonzero(np.diff(at, prepend=-2) > 1)
        ids: list[int] = self.row.tokens[: at[begins[-1]] + 1].tolist()
        return ids

    @property
    def answer_length(self) -> int:
        """Tokens of the answer, its end token included."""
        assert self.row is not None
        return len(self.row.tokens) - (0 if self.row.source is not None else len(self.prompt_tokens))


@dataclass(frozen=True)
class EvaluationSet:
    """The rows and prompts that every model is scored on.

    rows        rows to compute the loss of, as one model reads them; empty until that model is known
    questions   [R] the rows that are a prompt with an answer; None for the others; empty where a record is many rows
    labels      all reference answers, where they are classes
    generated   indices of the questions that models generate an answer to
    metrics     metrics of those answers
    min_tokens  generation may be at least this long, however short the reference answers are
    stop        texts that end a generated answer
    """

    rows: Sequence[Row] = ()
    questions: Sequence[Question | None] = ()
    labels: list[str] = field(default_factory=list)
    generated: Sequence[int] = ()
    metrics: Sequence[Metric] = ()
    min_tokens: int = 0
    stop: tuple[str, ...] = ()

    @property
    def indexed(self) -> list[tuple[int, Question]]:
        """The questions with their row indices."""
        return [(index, question) for index, question in enumerate(self.questions) if question is not None]

    @property
    def count(self) -> int:
        """Number of rows, R."""
        return len(self.questions) or len(self.rows)

    def select(self, indices: Sequence[int], questions: Sequence[Question | None]) -> EvaluationSet:
        """The part at `indices`, with its questions as another model reads them."""
        generated = set(self.generated)
        return replace(
            self,
            rows=[question.row for question in questions if question is not None and question.row is not None],
            questions=questions,
            generated=[position for position, index in enumerate(indices) if index in generated],
        )


def expand(result: ModelResult, indices: Sequence[int], count: int) -> ModelResult:
    """The result of a part of the rows as one of all `count` rows, of which only those at `indices` are known."""
    texts = dict(zip(indices, result.answers or [], strict=False))
    answers = None if result.answers is None else [texts.get(index) for index in range(count)]
    return replace(result, scores=[scores.within(indices, count) for scores in result.scores], answers=answers)


# A language model


def score_model(
    context: EvaluationContext,
    questions: EvaluationSet,
    model: LanguageModel,
    name: str,
    *,
    codec: Codec | None = None,
    stop: tuple[str, ...] = (),
) -> ModelResult:
    """Loss, perplexity, and where there are questions the accuracy of labels or choices, and generated answers.

    codec  encodes labels and choices; by default within the length limits of the run
    stop   further texts that end a generated answer
    """
    codec = codec or context.codec(model.codec)
    progress = progress_callback(context.progress, f"the loss of {len(questions.rows)} rows: {name}")
    nll = -model.logp(questions.rows, progress)  # [R] nats
    tokens = np.array([row.weight.sum() for row in questions.rows], float)  # [R]
    scores, predictions = [weighted_mean("loss", nll, tokens), _perplexity(nll, tokens)], None
    if questions.labels:
        rows = len(questions.indexed)
        progress = progress_callback(
            context.progress, f"scoring {len(questions.labels)} labels for {rows} rows: {name}"
        )
        label_scores, predictions = _score_labels(questions, codec, model, progress)
        scores += label_scores
    elif questions.indexed and all(question.choices for _, question in questions.indexed):
        scores += _score_choices(
            questions, codec, model, progress_callback(context.progress, f"scoring choices: {name}")
        )
    if not questions.generated:
        return ModelResult(name, scores, predictions)
    progress = progress_callback(context.progress, f"generating {len(questions.generated)} answers: {name}")
    answers, cost = _generate_answers(questions, model, stop, progress)
    scores += _score_answers(context, questions, answers)
    return ModelResult(name, scores, predictions, _answer_texts(answers), cost)


def _perplexity(nll: Floats, tokens: Floats) -> Scores:
    # exp(709) is the last that fits a float64.
    return weighted_mean("perplexity", nll, tokens, transform=lambda loss: np.exp(np.minimum(loss, 700.0)))


def _score_labels(
    questions: EvaluationSet, codec: Codec, model: LanguageModel, progress: ProgressCallback
) -> tuple[list[Scores], ClassPredictions | None]:
    """Accuracy and F1 of the most likely label: the fairest way to ask a model that was not tuned for labels."""
    rows, kept = list[Row](), list[int]()
    for index, question in questions.indexed:
        # Another label may be longer than the reference, and not fit where that does.
        with contextlib.suppress(Unusable):
            rows += [question.row_with(codec, label) for label in questions.labels]
            kept.append(index)
    if not kept:
        return [], None
    logp = model.logp(rows, progress).reshape(-1, len(questions.labels))  # [K, C]
    references = _reference_labels(questions, kept)
    predictions = ClassPredictions(questions.labels, references, logp.argmax(1), _confidence(logp))
    scores = class_scores(references, predictions.predicted, len(questions.labels))
    return [each.within(kept, questions.count) for each in scores], predictions


def _reference_labels(questions: EvaluationSet, indices: Sequence[int]) -> NDArray[np.int64]:
    answers = [cast(Question, questions.questions[index]).answer for index in indices]
    return np.array([questions.labels.index(answer) for answer in answers])


def _confidence(logp: Floats) -> Floats:
    """[K] probability of the most likely label, [K, C], if no other answer is possible."""
    return np.asarray(1 / np.exp(logp - logp.max(1, keepdims=True)).sum(1))


def _score_choices(
    questions: EvaluationSet, codec: Codec, model: LanguageModel, progress: ProgressCallback
) -> list[Scores]:
    """Accuracy of the most likely choice, and of the most likely per byte, which does not favor short choices."""
    rows, kept = list[Row](), list[tuple[int, Question]]()
    for index, question in questions.indexed:
        with contextlib.suppress(Unusable):
            rows += [question.row_with(codec, choice) for choice in question.choices]
            kept.append((index, question))
    if not kept:
        return []
    # Questions have different numbers of choices, so the flat scores are split at these ends.
    ends = np.cumsum([len(question.choices) for _, question in kept])[:-1]
    logp = np.split(model.logp(rows, progress), ends)
    per_byte = [
        part / [max(len(choice.encode()), 1) for choice in question.choices]
        for part, (_, question) in zip(logp, kept, strict=True)
    ]
    indices, scores = [index for index, _ in kept], list[Scores]()
    for metric, parts in (("choice_accuracy", logp), ("choice_accuracy_per_byte", per_byte)):
        pairs = zip(parts, kept, strict=True)
        right = [question.choices[part.argmax()] == question.answer for part, (_, question) in pairs]
        scores.append(proportion(metric, right).within(indices, questions.count))
    return scores


def _answer_texts(answers: Sequence[GeneratedAnswer | None]) -> list[str | None]:
    return [None if answer is None else answer.text for answer in answers]


def _generate_answers(
    questions: EvaluationSet, model: LanguageModel, stop: tuple[str, ...], progress: ProgressCallback
) -> tuple[list[GeneratedAnswer | None], Cost]:
    """[R] greedily generated answers, None for questions that none is generated for; and the mean cost of one."""
    prompts = [cast(Question, questions.questions[index]) for index in questions.generated]
    longest = max(questions.min_tokens, *(question.answer_length for question in prompts))
    limit = model.limit or 1 << 30
    # All prompts share one token limit. One near the model's last position is generated alone, with its own limit:
    # in a common batch it would shorten the answers of all.
    fits = [len(question.prompt_tokens) + longest <= limit for question in prompts]
    groups = [[position for position, fit in enumerate(fits) if fit]]
    groups += [[position] for position, fit in enumerate(fits) if not fit]
    answers = list[GeneratedAnswer | None]([None] * questions.count)
    tokens, done, started = 0, 0, time.perf_counter()
    for group in filter(None, groups):
        most = max(questions.min_tokens, *(prompts[position].answer_length for position in group))
        settings = Sampling(tokens=most, stop=(*stop, *questions.stop, *model.codec.stop_strings))
        report = partial(_report_progress, progress, done, len(prompts))
        continuations = model.writer.write(
            [prompts[position].prompt_tokens for position in group], settings, on_progress=report
        )
        done += len(group)
        for position, (answer,) in zip(group, continuations, strict=True):
            ended = answer.reason != "length"
            answers[questions.generated[position]] = GeneratedAnswer(answer.text, len(answer.tokens), ended)
            tokens += len(answer.tokens)
    seconds = (time.perf_counter() - started) / len(prompts)
    read = sum(len(question.prompt_tokens) for question in prompts) / len(prompts)
    return answers, Cost(len(prompts), read, tokens / len(prompts), seconds)


def _report_progress(progress: ProgressCallback, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _score_answers(
    context: EvaluationContext, questions: EvaluationSet, answers: Sequence[GeneratedAnswer | None]
) -> list[Scores]:
    """Every metric of the generated answers: those of texts, the run's rewards, the judge."""
    texts = _answer_texts(answers)
    references = [() if question is None else (question.answer,) for question in questions.questions]
    scores = [metric.scores(texts, references) for metric in questions.metrics]
    if context.recipe.objective.on_policy:
        where = [None if question is None else question.where for question in questions.questions]
        scores += reward_scores(context, where, answers)
    if context.judge is not None:
        context.progress(f"asking {context.judge.model} to judge")
        prompts = [None if question is None else question.prompt for question in questions.questions]
        scores.append(judge_answers(context.judge, prompts, references, texts))
    return scores


# A language model with examples or passages in its prompt


def score_prompted(
    context: EvaluationContext,
    questions: EvaluationSet,
    model: LanguageModel,
    name: str,
    baseline: Baseline,
    shots: Sequence[Shot],
) -> ModelResult:
    """An untuned model, whose prompts begin with similar examples or with passages."""
    context.progress(f"searching examples or passages for {len(questions.indexed)} questions: {name}")
    limit = min(model.limit or MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS)
    codec = Codec(model.codec.tokenizer, max_length=limit, too_long="drop", decoder_start=model.codec.decoder_start)
    build, items = _find_context(context, questions, baseline, shots)
    # Two tokens more than the answer alone: an end token, and one where it joins the prompt.
    label_room = max((len(codec.encode_prompt(label)) + 2 for label in questions.labels), default=0)
    kept, prompted = list[int](), list[Question]()
    for (index, question), found in zip(questions.indexed, items, strict=True):
        room = limit - max(label_room, len(codec.encode_prompt(question.answer)) + 2)
        with contextlib.suppress(Unusable):
            question = replace(question, prompt=fit_prompt(codec, question.prompt, build, found, room))
            prompted.append(replace(question, row=question.row_with(codec, question.answer)))
            kept.append(index)
    left_out = len(questions.indexed) - len(kept)
    if left_out:
        context.note(baseline.spec, f"{left_out} questions are too long for it; they are left out")
    if not kept:
        return ModelResult(name, [])
    # A model that continues plain text goes on with the next example; it is stopped where that begins.
    plain = all(isinstance(question.prompt, str) and SEPARATOR not in question.answer for question in prompted)
    stop = (SEPARATOR,) if plain else ()
    result = score_model(context, questions.select(kept, prompted), model, name, codec=codec, stop=stop)
    return expand(result, kept, questions.count)


def _find_context(
    context: EvaluationContext, questions: EvaluationSet, baseline: Baseline, shots: Sequence[Shot]
) -> tuple[PromptBuilder, list[list[Any]]]:
    """(how items are put before a prompt, the items for each question, the most similar first)."""
    queries, encoder = [query_text(question.prompt) for _, question in questions.indexed], context.options.encoder
    if baseline.method == "few-shot":
        retriever = context.retriever([query_text(shot.prompt) for shot in shots], encoder)
        indices, similarity = retriever.nearest(queries, context.options.shots)  # [n, K] each
        _note_random_context(context, baseline, similarity, context.baseline_rows)
        return with_shots, [[shots[index] for index in row] for row in indices.tolist()]
    if baseline.method == "retrieval":
        indices, similarity = context.retriever(context.passages, encoder).nearest(queries, PASSAGES_PER_QUESTION)
        _note_random_context(context, baseline, similarity, "passages")
        return with_passages, [[context.passages[index] for index in row] for row in indices.tolist()]
    return with_passages, [[] for _ in queries]


def _note_random_context(
    context: EvaluationContext, baseline: Baseline, similarity: NDArray[np.float32], items: str
) -> None:
    # A similarity of exactly 0 marks an item that a retriever picked at random.
    few = int((similarity == 0).any(1).sum())
    if few:
        shared = f"{few} of {len(similarity)} questions share a word with fewer than {similarity.shape[1]} {items}"
        context.note(baseline.spec, f"{shared}; the others in its prompt are picked at random")


# Without a model, and a model on a server


def score_nearest_rows(
    context: EvaluationContext, questions: EvaluationSet, baseline: Baseline, shots: Sequence[Shot], encoder: str | None
) -> ModelResult:
    """The answers of the nearest training rows (k-nearest neighbors), with no language model at all."""
    context.progress(f"searching the nearest of {len(shots)} {context.baseline_rows}: {baseline.method}")
    retriever = context.retriever([query_text(shot.prompt) for shot in shots], encoder)
    queries = [query_text(question.prompt) for _, question in questions.indexed]
    indices, similarity = retriever.nearest(queries, NEIGHBORS)  # [n, K] each
    unmatched = int((similarity == 0).all(1).sum())
    if unmatched:
        reason = f"{unmatched} of {len(similarity)} questions share no word with any of the {context.baseline_rows}"
        context.note(baseline.spec, f"{reason}; they get the most frequent answer")
    answers = vote([shot.answer for shot in shots], indices, similarity)
    by_row = dict(zip((index for index, _ in questions.indexed), answers, strict=True))
    return _score_texts(context, questions, f"nearest {context.baseline_rows}, {baseline.method}", by_row)


def vote(answers: Sequence[str], indices: NDArray[np.int64], similarity: NDArray[np.float32]) -> list[str]:
    """[n] the answer with the largest summed similarity among the neighbors [n, K]; the most frequent where none is
    similar."""
    most_frequent = Counter(answers).most_common(1)[0][0]
    winners = []
    for neighbors, weights in zip(indices.tolist(), similarity.tolist(), strict=True):
        votes = Counter[str]()
        for neighbor, weight in zip(neighbors, weights, strict=True):
            if weight > 0:
                votes[answers[neighbor]] += weight
        winners.append(votes.most_common(1)[0][0] if votes else most_frequent)
    return winners


def score_endpoint(context: EvaluationContext, questions: EvaluationSet, baseline: Baseline) -> ModelResult:
    """The answers that a model on a server generates; of labels, the system prompt lists all."""
    server = Endpoint(baseline.spec)
    context.progress(f"asking {server.model}")
    indices = [index for index, _ in questions.indexed] if questions.labels else list(questions.generated)
    posed = [cast(Question, questions.questions[index]) for index in indices]
    if questions.labels:
        system = f"Answer with one of these and nothing else: {', '.join(map(str.strip, questions.labels))}"
        tokens = MAX_LABEL_TOKENS
    else:
        # Another tokenizer may need more tokens for the same text.
        longest = max((questions.min_tokens, *(question.answer_length for question in posed)))
        system, tokens = "", 2 * longest + MAX_LABEL_TOKENS
    replies = server.ask([question.prompt for question in posed], tokens=tokens, system=system)
    lost = sum(reply is None for reply in replies)
    if lost:
        context.note(baseline.spec, f"{lost} of {len(replies)} questions got no answer; they are left out")
    texts = {index: reply.text for index, reply in zip(indices, replies, strict=True) if reply is not None}
    return replace(_score_texts(context, questions, server.model, texts), cost=mean_cost(replies))


def _score_texts(
    context: EvaluationContext, questions: EvaluationSet, name: str, answers: Mapping[int, str]
) -> ModelResult:
    """The result of answers given as texts, by row index."""
    scores = list[Scores]()
    if questions.labels:
        indices = sorted(answers)
        predicted = np.array([leading_label(answers[index], questions.labels) for index in indices])
        per_label = class_scores(_reference_labels(questions, indices), predicted, len(questions.labels))
        scores += [each.within(indices, questions.count) for each in per_label]
    # Only rows that the run generates an answer for: on others there is nothing to compare with.
    generated = set(questions.generated) & answers.keys()
    texts = [GeneratedAnswer(answers[index]) if index in generated else None for index in range(questions.count)]
    if questions.generated:
        scores += _score_answers(context, questions, texts)
    return ModelResult(name, scores, answers=_answer_texts(texts))
