"""Score generated answers by the rewards that a run was trained with."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bottega.batch import Row
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.cost import Cost
from bottega.inference.language_model import LanguageModel
from bottega.metrics.scores import Scores, row_mean
from bottega.objectives.rewards import SampledAnswer
from bottega.progress import progress_callback
from bottega.records import Posed, Record, Unusable
from bottega.sampling import Sampling
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec


class GeneratedAnswer(NamedTuple):
    """A generated answer; how many tokens it has and whether it ended by itself, where that is known."""

    text: str
    tokens: int | None = None
    ended: bool = True


def reward_scores(
    context: EvaluationContext, where: Sequence[str | None], answers: Sequence[GeneratedAnswer | None]
) -> list[Scores]:
    """The reward of each answer [R], and each of its parts where there are several.

    where  the location of each answer's record
    """
    objective = context.recipe.objective.on_policy
    assert objective is not None
    # Spares may have replaced records, so both are searched.
    prompts = {record.where: record for record in (*context.records, *context.spares) if isinstance(record, Posed)}
    pairs = zip(where, answers, strict=True)
    known = {index: (place, answer) for index, (place, answer) in enumerate(pairs) if place and answer is not None}
    if not known:
        return []
    inputs = [_reward_input(context, prompts[place], answer) for place, answer in known.values()]
    parts = np.array([reward.scores(inputs, context.judges) for reward in objective.rewards], float)  # [F, K]
    total = np.array([reward.weight for reward in objective.rewards]) @ parts  # [K]
    values = {"reward": total}
    # A single reward is its own total, but for its weight.
    if len(parts) > 1:
        values |= {f"reward/{reward.name}": part for reward, part in zip(objective.rewards, parts, strict=True)}
    return [_expand(name, each, list(known), len(answers)) for name, each in values.items()]


def _reward_input(context: EvaluationContext, prompt: Posed, answer: GeneratedAnswer) -> SampledAnswer:
    # The tokens of an answer from elsewhere are counted by the run's tokenizer, its end token included.
    counted = len(context.tokenizer.encode(answer.text, add_special_tokens=False)) + 1
    return SampledAnswer(prompt, answer.text, counted if answer.tokens is None else answer.tokens, answer.ended)


def _expand(name: str, values: Sequence[float], indices: Sequence[int], count: int) -> Scores:
    """Scores of `count` rows, of which only those at `indices` are known."""
    expanded = np.full(count, np.nan)
    expanded[list(indices)] = values
    return row_mean(name, expanded)


def measure(context: EvaluationContext, model: LanguageModel) -> Iterator[ModelResult]:
    """The results on prompts without reference answers: each model generates answers, and the rewards score them."""
    records, dropped = _sample_prompts(context, context.codec(model.codec))
    run = _score_model(context, model, records, "the run")
    yield replace(run, records=records, dropped=dropped)
    if model.origin is not None:
        with model.untuned() as untuned:
            yield replace(_score_model(context, untuned, records, Path(model.origin).name), base=True)
    for baseline in context.baselines:
        if baseline.method in ("run", "zero-shot") and baseline.model is not None:
            other = LanguageModel(baseline.model, dtype=context.dtype)
            yield _score_model(context, other, records, baseline.describe())
        elif baseline.method != "zero-shot":
            context.note(baseline.spec, "it needs reference answers, and the rows have none")


def _sample_prompts(context: EvaluationContext, codec: Codec) -> tuple[list[Record], dict[str, int]]:
    """(as many records as answers are generated, how many cannot be encoded by reason)."""
    shuffled = random.Random(context.seed).sample(context.records, len(context.records))
    examples = replace(context, records=shuffled).build(lambda record: _encode_prompt(context, record, codec))
    return examples.records[: context.options.answers], dict(examples.dropped)


def _encode_prompt(context: EvaluationContext, record: Record, codec: Codec) -> Row:
    """The row of a prompt, as training encodes it."""
    objective = context.recipe.objective.on_policy
    assert isinstance(record, Posed)
    assert objective is not None
    return codec.encode_prompt_row(record, objective.tokens)


def _score_model(context: EvaluationContext, model: LanguageModel, records: Sequence[Record], name: str) -> ModelResult:
    """The rewards of a model's greedy answers; rows that are too long for it are unknown."""
    objective, codec = context.recipe.objective.on_policy, context.codec(model.codec)
    assert objective is not None
    prompts = dict[int, list[int]]()
    for index, record in enumerate(records):
        try:
            prompts[index] = _encode_prompt(context, record, codec).prompt
        except (Unusable, ChatTemplateError) as error:
            context.notes[name] = f"it cannot read some rows: {error}"
    if not prompts:
        return ModelResult(name, [])
    progress = progress_callback(context.progress, f"generating {len(prompts)} answers: {name}")
    # Greedy, unlike in training: the reward of what the model would be used to answer, without sampling noise.
    settings = Sampling(tokens=objective.tokens, stop=(*objective.stop, *codec.stop_strings_in_use))
    started = time.perf_counter()
    continuations = [answer for (answer,) in model.writer.write(list(prompts.values()), settings, on_progress=progress)]
    seconds = (time.perf_counter() - started) / max(len(prompts), 1)
    answers: list[GeneratedAnswer | None] = [None] * len(records)
    for index, answer in zip(prompts, continuations, strict=True):
        answers[index] = GeneratedAnswer(answer.text, len(answer.tokens), answer.reason != "length")
    scores = reward_scores(context, [record.where for record in records], answers)
    texts = [None if answer is None else answer.text for answer in answers]
    read = float(np.mean([len(ids) for ids in prompts.values()]))
    generated = float(np.mean([len(answer.tokens) for answer in continuations]))
    return ModelResult(name, scores, answers=texts, cost=Cost(len(prompts), read, generated, seconds))
