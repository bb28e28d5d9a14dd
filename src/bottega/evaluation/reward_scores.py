"""What written answers are worth by the rewards that a run learned from."""

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
from bottega.metrics.scores import Scores, average
from bottega.objectives import OnPolicy
from bottega.objectives.rewards import Written
from bottega.progress import progress_callback
from bottega.records import Posed, Unusable
from bottega.sampling import Sampling
from bottega.tokenization.chat_template import TemplateRefused
from bottega.tokenization.codec import Codec


class GeneratedAnswer(NamedTuple):
    """An answer in words; how many tokens it took and whether it ended, where that is known."""

    text: str
    tokens: int | None = None
    ended: bool = True


def reward_scores(
    case: EvaluationContext, places: Sequence[str | None], answers: Sequence[GeneratedAnswer | None]
) -> list[Scores]:
    """The reward of each answer, [R] of them, and each of its parts where there are several.

    places  where the record of each comes from
    """
    objective = case.recipe.objective
    assert isinstance(objective, OnPolicy)
    posed = {record.where: record for record in case.records if isinstance(record, Posed)}
    pairs = zip(places, answers, strict=True)
    known = {number: (place, one) for number, (place, one) in enumerate(pairs) if place and one is not None}
    if not known:
        return []
    written = [_reward_input(case, posed[place], one) for place, one in known.values()]
    marks = np.array([reward.marks(written, case.judges) for reward in objective.rewards], float)
    whole = np.array([reward.weight for reward in objective.rewards]) @ marks
    named = {"reward": whole}
    if len(marks) > 1:
        named |= {f"reward, {reward.name}": part for reward, part in zip(objective.rewards, marks, strict=True)}
    return [_expand(name, values, list(known), len(answers)) for name, values in named.items()]


def _reward_input(case: EvaluationContext, posed: Posed, one: GeneratedAnswer) -> Written:
    """The answer as rewards take it; of one that comes from elsewhere the tokens are the run's, and its end one."""
    counted = len(case.tokenizer.encode(one.text, add_special_tokens=False)) + 1
    return Written(posed, one.text, counted if one.tokens is None else one.tokens, one.ended)


def _expand(name: str, values: Sequence[float], places: Sequence[int], count: int) -> Scores:
    found = np.full(count, np.nan)
    found[list(places)] = values
    return average(name, found)


def measure(case: EvaluationContext, model: LanguageModel) -> Iterator[ModelResult]:
    """The sheets of rows of which no right answer is known: what each model writes, and what that is worth."""
    _sample_prompts(case, case.codec(model.codec))
    yield _score_model(case, model, "the run")
    if model.origin is not None:
        with model.untuned() as untuned:
            yield replace(_score_model(case, untuned, Path(model.origin).name), base=True)
    for rival in case.means.rivals:
        if rival.way in ("run", "zero-shot") and rival.model is not None:
            yield _score_model(case, LanguageModel(rival.model, dtype=case.dtype), rival.named())
        elif rival.way != "zero-shot":
            case.unasked[rival.given] = "no right answer is known that it could show, or find"


def _sample_prompts(case: EvaluationContext, codec: Codec) -> None:
    """Leave the rows that will be answered, as many as are to be."""
    case.records = random.Random(case.seed).sample(case.records, len(case.records))
    case.made(lambda record: _encode_prompt(case, record, codec))
    case.records = case.records[: case.means.answers]


def _encode_prompt(case: EvaluationContext, record: object, codec: Codec) -> Row:
    """The row of a prompt, as training has it."""
    objective = case.recipe.objective
    assert isinstance(record, Posed)
    assert isinstance(objective, OnPolicy)
    return codec.encode_prompt_row(record, objective.tokens)


def _score_model(case: EvaluationContext, model: LanguageModel, name: str) -> ModelResult:
    """What a model answers; nothing is known of rows that are too long for it."""
    objective, codec = case.recipe.objective, case.codec(model.codec)
    assert isinstance(objective, OnPolicy)
    prompts = dict[int, list[int]]()
    for number, record in enumerate(case.records):
        try:
            prompts[number] = _encode_prompt(case, record, codec).prompt
        except (Unusable, TemplateRefused) as error:
            case.unasked[name] = f"some rows are not for it: {error}"
    if not prompts:
        return ModelResult(name, [])
    far = progress_callback(case.tell, f"writing {len(prompts)} answers: {name}")
    settings = Sampling(tokens=objective.tokens, stop=(*objective.stop, *codec.stop_strings_in_use))
    started = time.perf_counter()
    written = [one for (one,) in model.writer.write(list(prompts.values()), settings, far=far)]
    seconds = (time.perf_counter() - started) / max(len(prompts), 1)
    answers: list[GeneratedAnswer | None] = [None] * len(case.records)
    for number, one in zip(prompts, written, strict=True):
        answers[number] = GeneratedAnswer(one.text, len(one.tokens), one.reason != "length")
    scores = reward_scores(case, [record.where for record in case.records], answers)
    said = [None if one is None else one.text for one in answers]
    asked, wrote = (
        float(np.mean(list(map(len, some)))) for some in (prompts.values(), [one.tokens for one in written])
    )
    return ModelResult(name, scores, said=said, cost=Cost(len(prompts), asked, wrote, seconds))
