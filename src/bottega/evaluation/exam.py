"""An exam of questions, and what answers it: a language model, the nearest known answers, a server."""

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
from bottega.metrics.scores import Numbers, Scores, classes, mean, share
from bottega.objectives import OnPolicy
from bottega.progress import ProgressCallback, progress_callback
from bottega.records import Prompt, Unusable, Variables
from bottega.sampling import Sampling
from bottega.tokenization.codec import Codec

NEIGHBORS = 5
"""Training rows whose answers are looked at, each counting as much as it is like the question."""

MAX_LABEL_TOKENS = 64
"""Most tokens of a label that a server writes."""


@dataclass(frozen=True)
class Question:
    """What is asked, and what is right.

    row        both, as a model reads them
    choices    the answers there are to choose from, where they are its own
    variables  what a chat template is given beside the prompt
    """

    where: str
    prompt: Prompt
    answer: str
    row: Row | None = None
    choices: tuple[str, ...] = ()
    variables: Variables = field(default_factory=dict)

    def answered(self, codec: Codec, answer: str) -> Row:
        """The row in which this is the answer."""
        return codec.encode_completion(self.where, self.prompt, answer, variables=self.variables)

    @property
    def asked(self) -> list[int]:
        """The tokens before the answer, as training saw them: a tokenizer may draw a space to either side."""
        assert self.row is not None
        if self.row.source is not None:
            read: list[int] = self.row.source.tolist()
            return read
        at = self.row.at[self.row.weight > 0]
        begins = np.flatnonzero(np.diff(at, prepend=-2) > 1)
        ids: list[int] = self.row.tokens[: at[begins[-1]] + 1].tolist()
        return ids

    @property
    def length(self) -> int:
        """Tokens of the answer, its end included."""
        assert self.row is not None
        return len(self.row.tokens) - (0 if self.row.source is not None else len(self.asked))


@dataclass(frozen=True)
class EvaluationSet:
    """What is to be answered.

    rows       as one model reads them; empty until it is known which
    questions  [R] those rows that ask something; empty where no row is a record by itself
    labels     all answers, where they are classes
    written    numbers of the questions whose answers are written out
    metrics    by which those are marked
    tokens     that each of them may have at the least, however short the right ones are
    stop       texts that end them
    """

    rows: Sequence[Row] = ()
    questions: Sequence[Question | None] = ()
    labels: list[str] = field(default_factory=list)
    written: Sequence[int] = ()
    metrics: Sequence[Metric] = ()
    tokens: int = 0
    stop: tuple[str, ...] = ()

    @property
    def numbered(self) -> list[tuple[int, Question]]:
        """The questions with their numbers."""
        return [(place, one) for place, one in enumerate(self.questions) if one is not None]

    @property
    def count(self) -> int:
        """R."""
        return len(self.questions) or len(self.rows)


# A language model


def score_model(
    case: EvaluationContext,
    exam: EvaluationSet,
    model: LanguageModel,
    name: str,
    *,
    codec: Codec | None = None,
    stop: tuple[str, ...] = (),
) -> ModelResult:
    """What a model makes of the exam.

    codec  cuts what it is asked; by default within the limits the run had
    stop   texts that end what it writes
    """
    codec = codec or case.codec(model.codec)
    nll = -model.logp(exam.rows, progress_callback(case.tell, f"the loss of {len(exam.rows)} rows: {name}"))
    tokens = np.array([row.weight.sum() for row in exam.rows], float)
    scores, named = [mean("loss", nll, tokens), _perplexity(nll, tokens)], None
    if exam.labels:
        far = progress_callback(case.tell, f"weighing {len(exam.labels)} labels for {len(exam.numbered)} rows: {name}")
        found, named = _score_labels(exam, codec, model, far)
        scores += found
    elif exam.numbered and all(one.choices for _, one in exam.numbered):
        scores += _score_choices(exam, codec, model, progress_callback(case.tell, f"weighing choices: {name}"))
    if not exam.written:
        return ModelResult(name, scores, named)
    answers, taken = _generate_answers(
        exam, model, stop, progress_callback(case.tell, f"writing {len(exam.written)} answers: {name}")
    )
    return ModelResult(name, [*scores, *_score_answers(case, exam, answers)], named, _answer_texts(answers), taken)


def _perplexity(nll: Numbers, tokens: Numbers) -> Scores:
    return mean("perplexity", nll, tokens, of=lambda value: np.exp(np.minimum(value, 700.0)))


def _score_labels(
    exam: EvaluationSet, codec: Codec, model: LanguageModel, far: ProgressCallback
) -> tuple[list[Scores], ClassPredictions | None]:
    """Which of the labels a model finds likeliest: the kindest way to ask one that was not tuned."""
    rows, kept = list[Row](), list[int]()
    for place, one in exam.numbered:
        with contextlib.suppress(Unusable):  # a longer label may not fit where the answer does
            rows += [one.answered(codec, label) for label in exam.labels]
            kept.append(place)
    if not kept:
        return [], None
    logp = model.logp(rows, far).reshape(-1, len(exam.labels))
    right = np.array([exam.labels.index(cast(Question, exam.questions[place]).answer) for place in kept])
    named = ClassPredictions(exam.labels, right, logp.argmax(1), _confidence(logp))
    return [one.within(kept, exam.count) for one in classes(right, named.named, len(exam.labels))], named


def _confidence(logp: Numbers) -> Numbers:
    """[R] the chance of the likeliest of the labels, [R, C], where nothing else can be said."""
    return np.asarray(1 / np.exp(logp - logp.max(1, keepdims=True)).sum(1))


def _score_choices(exam: EvaluationSet, codec: Codec, model: LanguageModel, far: ProgressCallback) -> list[Scores]:
    """Which of its own choices each question's answer is: the likeliest, and the likeliest by its length in bytes."""
    rows, kept = list[Row](), list[tuple[int, Question]]()
    for place, one in exam.numbered:
        with contextlib.suppress(Unusable):
            rows += [one.answered(codec, choice) for choice in one.choices]
            kept.append((place, one))
    if not kept:
        return []
    ends = np.cumsum([len(one.choices) for _, one in kept])[:-1]
    parts = np.split(model.logp(rows, far), ends)
    by_byte = [
        part / [max(len(choice.encode()), 1) for choice in one.choices]
        for part, (_, one) in zip(parts, kept, strict=True)
    ]
    places = [place for place, _ in kept]
    return [
        share(metric, [one.choices[part.argmax()] == one.answer for part, (_, one) in zip(found, kept, strict=True)])
        .within(places, exam.count)
        for metric, found in (("choice accuracy", parts), ("choice accuracy, by length", by_byte))
    ]  # fmt: skip


def _answer_texts(answers: Sequence[GeneratedAnswer | None]) -> list[str | None]:
    return [None if one is None else one.text for one in answers]


def _generate_answers(
    exam: EvaluationSet, model: LanguageModel, stop: tuple[str, ...], far: ProgressCallback
) -> tuple[list[GeneratedAnswer | None], Cost]:
    """[R] what a model writes greedily to the questions that are written out, and what that takes."""
    asked = [cast(Question, exam.questions[place]) for place in exam.written]
    longest = max(exam.tokens, *(one.length for one in asked))
    limit = model.limit or 1 << 30
    # Near the model's last position each has its own room.
    roomy = [place for place, one in enumerate(asked) if len(one.asked) + longest <= limit]
    groups = [roomy, *([place] for place, one in enumerate(asked) if len(one.asked) + longest > limit)]
    answers = list[GeneratedAnswer | None]([None] * exam.count)
    count, ended, started = 0, 0, time.perf_counter()
    for group in filter(None, groups):
        most = max(exam.tokens, *(asked[place].length for place in group))
        settings = Sampling(tokens=most, stop=(*stop, *exam.stop, *model.codec.stop_strings))
        further = partial(_report_progress, far, ended, len(asked))
        written = model.writer.write([asked[place].asked for place in group], settings, far=further)
        ended += len(group)
        for place, (answer,) in zip(group, written, strict=True):
            answers[exam.written[place]] = GeneratedAnswer(answer.text, len(answer.tokens), answer.reason != "length")
            count += len(answer.tokens)
    seconds = (time.perf_counter() - started) / len(asked)
    return answers, Cost(len(asked), sum(len(one.asked) for one in asked) / len(asked), count / len(asked), seconds)


def _report_progress(far: ProgressCallback, before: int, total: int, done: int, _: int) -> None:
    far(before + done, total)


def _score_answers(
    case: EvaluationContext, exam: EvaluationSet, answers: Sequence[GeneratedAnswer | None]
) -> list[Scores]:
    """What was written, marked in every way there is."""
    texts = _answer_texts(answers)
    right = [() if one is None else (one.answer,) for one in exam.questions]
    found = [metric.scores(texts, right) for metric in exam.metrics]
    if isinstance(case.recipe.objective, OnPolicy):
        found += reward_scores(case, [None if one is None else one.where for one in exam.questions], answers)
    if case.means.judge is not None:
        case.tell(f"asking {case.means.judge.model} to judge")
        found.append(
            judge_answers(
                case.means.judge, [None if one is None else one.prompt for one in exam.questions], right, texts
            )
        )
    return found


# The same, asked well


def score_prompted(
    case: EvaluationContext,
    exam: EvaluationSet,
    model: LanguageModel,
    name: str,
    rival: Baseline,
    known: Sequence[Shot],
) -> ModelResult:
    """What a model that was not tuned answers when it is shown known answers, or passages, with each question."""
    case.tell(f"looking for what to show with {len(exam.numbered)} questions: {name}")
    limit = min(model.limit or MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS)
    codec = Codec(model.codec.tokenizer, max_length=limit, too_long="drop", decoder_start=model.codec.decoder_start)
    put, things = _find_context(case, exam, rival, known)
    label = max((len(codec.encode_prompt(label)) + 2 for label in exam.labels), default=0)
    kept, questions = list[int](), list[Question]()
    for (place, one), few in zip(exam.numbered, things, strict=True):
        prompt = fit_prompt(codec, one.prompt, put, few, limit - max(label, len(codec.encode_prompt(one.answer)) + 2))
        with contextlib.suppress(Unusable):
            one = replace(one, prompt=prompt)
            questions.append(replace(one, row=one.answered(codec, one.answer)))
            kept.append(place)
    if len(kept) < len(exam.numbered):
        case.note(rival.given, f"{len(exam.numbered) - len(kept)} questions are too long for it; they are left out")
    if not kept:
        return ModelResult(name, [])
    written = [place for place, number in enumerate(kept) if number in set(exam.written)]
    theirs = replace(exam, rows=[cast(Row, one.row) for one in questions], questions=questions, written=written)
    plain = all(isinstance(one.prompt, str) and SEPARATOR not in one.answer for one in questions)
    sheet = score_model(case, theirs, model, name, codec=codec, stop=(SEPARATOR,) if plain else ())
    texts = dict(zip(kept, sheet.said or [], strict=False))
    said_ = None if sheet.said is None else [texts.get(place) for place in range(exam.count)]
    return replace(sheet, scores=[one.within(kept, exam.count) for one in sheet.scores], said=said_)


def _find_context(
    case: EvaluationContext, exam: EvaluationSet, rival: Baseline, known: Sequence[Shot]
) -> tuple[PromptBuilder, list[list[Any]]]:
    """What puts things before a prompt, and for each question the things there are, the likest first."""
    asked = [query_text(one.prompt) for _, one in exam.numbered]
    if rival.way == "few-shot":
        texts = [query_text(one.prompt) for one in known]
        numbers, nearness = case.index(texts, case.means.encoder).nearest(asked, case.means.shots)
        _note_random_context(case, rival, nearness, case.those_known)
        return with_shots, [[known[number] for number in row] for row in numbers.tolist()]
    if rival.way == "retrieval":
        numbers, nearness = case.index(case.means.documents, case.means.encoder).nearest(asked, PASSAGES_PER_QUESTION)
        _note_random_context(case, rival, nearness, "passages")
        return with_passages, [[case.means.documents[number] for number in row] for row in numbers.tolist()]
    return with_passages, [[] for _ in asked]


def _note_random_context(case: EvaluationContext, rival: Baseline, nearness: NDArray[np.float32], what: str) -> None:
    few = int((nearness == 0).any(1).sum())
    if few:
        share_ = f"{few} of {len(nearness)} questions share a word with fewer than {nearness.shape[1]} {what}"
        case.note(rival.given, f"{share_}; the others shown to it are drawn at random")


# No model, and a model elsewhere


def score_nearest_rows(
    case: EvaluationContext, exam: EvaluationSet, rival: Baseline, known: Sequence[Shot], encoder: str | None
) -> ModelResult:
    """The answers of the training rows that are nearest, with no model of language at all."""
    case.tell(f"looking for the nearest of {len(known)} {case.those_known}: {rival.way}")
    texts = [query_text(one.prompt) for one in known]
    numbers, nearness = case.index(texts, encoder).nearest(
        [query_text(one.prompt) for _, one in exam.numbered], NEIGHBORS
    )
    alone = int((nearness == 0).all(1).sum())
    if alone:
        what = f"{alone} of {len(nearness)} questions share no word with any of the {case.those_known}"
        case.note(rival.given, f"{what}; they get the commonest answer")
    answers = vote([one.answer for one in known], numbers, nearness)
    name = f"nearest {case.those_known}, {rival.way}"
    return _score_texts(case, exam, name, dict(zip((place for place, _ in exam.numbered), answers, strict=True)))


def vote(answers: Sequence[str], numbers: NDArray[np.int64], nearness: NDArray[np.float32]) -> list[str]:
    """For each text what most of its neighbours say, each counting as much as it is near; the commonest of all else."""
    usual = Counter(answers).most_common(1)[0][0]
    found = []
    for places, weights in zip(numbers.tolist(), nearness.tolist(), strict=True):
        votes = Counter[str]()
        for place, weight in zip(places, weights, strict=True):
            if weight > 0:
                votes[answers[place]] += weight
        found.append(votes.most_common(1)[0][0] if votes else usual)
    return found


def score_endpoint(case: EvaluationContext, exam: EvaluationSet, rival: Baseline) -> ModelResult:
    """What a server's model writes; of labels, it is told what there is to choose from."""
    server = Endpoint(rival.given)
    case.tell(f"asking {server.model}")
    places = [place for place, _ in exam.numbered] if exam.labels else list(exam.written)
    asked = [cast(Question, exam.questions[place]) for place in places]
    told = f"Answer with one of these and nothing else: {', '.join(map(str.strip, exam.labels))}" if exam.labels else ""
    tokens = (
        MAX_LABEL_TOKENS if exam.labels else 2 * max((exam.tokens, *(one.length for one in asked))) + MAX_LABEL_TOKENS
    )
    replies = server.ask([one.prompt for one in asked], tokens=tokens, system=told)
    lost = sum(reply is None for reply in replies)
    if lost:
        case.note(rival.given, f"{lost} of {len(replies)} questions got no answer; they are left out")
    found = {place: reply.text for place, reply in zip(places, replies, strict=True) if reply is not None}
    return replace(_score_texts(case, exam, server.model, found), cost=mean_cost(replies))


def _score_texts(case: EvaluationContext, exam: EvaluationSet, name: str, answers: Mapping[int, str]) -> ModelResult:
    """The sheet of one that gives answers in words, by the numbers of their rows."""
    scores = list[Scores]()
    if exam.labels:
        places = sorted(answers)
        right = np.array([exam.labels.index(cast(Question, exam.questions[place]).answer) for place in places])
        named = np.array([leading_label(answers[place], exam.labels) for place in places])
        scores += [one.within(places, exam.count) for one in classes(right, named, len(exam.labels))]
    written = set(exam.written)
    told = [
        GeneratedAnswer(answers[place]) if place in written and place in answers else None
        for place in range(exam.count)
    ]
    return ModelResult(
        name, [*scores, *(_score_answers(case, exam, told) if written else [])], said=_answer_texts(told)
    )
