"""What written answers are worth by the rewards that a run learned from."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bottega.data.codec import Codec
from bottega.errors import DataError
from bottega.evaluation.case import Case, Sheet
from bottega.evaluation.cost import Cost
from bottega.language import LanguageModel
from bottega.objectives import OnPolicy
from bottega.progress import counter
from bottega.records import Posed, Unusable
from bottega.rewards import Written
from bottega.sampling import Sampling
from bottega.scores import Scores, average


def worth(case: Case, places: Sequence[str | None], texts: Sequence[str | None]) -> list[Scores]:
    """The reward of each answer, [R] of them, and each of its parts where there are several.

    places  where the record of each comes from
    """
    objective = case.recipe.objective
    assert isinstance(objective, OnPolicy)
    posed = {record.where: record for record in case.records if isinstance(record, Posed)}
    known = [
        number for number, (place, text) in enumerate(zip(places, texts, strict=True)) if place and text is not None
    ]
    written = [_written(case, posed[str(places[number])], str(texts[number])) for number in known]
    marks = [reward.marks(written, case.judges) for reward in objective.rewards] if written else []
    weights = [reward.weight for reward in objective.rewards]
    whole = [sum(weight * mark for weight, mark in zip(weights, row, strict=True)) for row in zip(*marks, strict=True)]
    parts = zip(objective.rewards, marks, strict=False) if len(objective.rewards) > 1 else ()
    named = {"reward": whole, **{f"reward, {reward.name}": found for reward, found in parts}}
    return [_among(name, values, known, len(texts)) for name, values in named.items()] if known else []


def _written(case: Case, posed: Posed, text: str) -> Written:
    return Written(posed, text, len(case.tokenizer.encode(text, add_special_tokens=False)), True)


def _among(name: str, values: Sequence[float], places: Sequence[int], count: int) -> Scores:
    found = np.full(count, np.nan)
    found[list(places)] = values
    return average(name, found)


def measure(case: Case, model: LanguageModel) -> Iterator[Sheet]:
    """The sheets of rows of which no right answer is known: what each model writes, and what that is worth."""
    objective = case.recipe.objective
    assert isinstance(objective, OnPolicy)
    _choose(case, case.codec(model.codec), objective)
    yield _sheet(case, model, objective, "the run")
    if model.origin is not None:
        with model.untuned() as untuned:
            yield replace(_sheet(case, untuned, objective, Path(model.origin).name), base=True)
    for rival in case.means.rivals:
        if rival.way in ("run", "zero-shot") and rival.model is not None:
            other = LanguageModel(rival.model, dtype=case.dtype)
            yield _sheet(case, other, objective, rival.named())
        elif rival.way != "zero-shot":
            case.unasked[rival.given] = "no right answer is known that it could show, or find"


def _choose(case: Case, codec: Codec, objective: OnPolicy) -> None:
    """Leave the rows that will be answered, as many as are to be."""
    kept = []
    for record in random.Random(case.seed).sample(case.records, len(case.records)):
        try:
            codec.posed(record, objective.tokens) if isinstance(record, Posed) else None
            kept.append(record)
        except Unusable as unusable:
            case.dropped[unusable.reason] += 1
    if not kept:
        fix = "give other rows: bottega evaluate RUN --data FILE"
        what = f"no row can be measured: {case.dropped.most_common(1)[0][0]}"
        raise DataError(what, where=case.records[0].where, fix=fix)
    case.records = kept[: case.means.answers]


def _sheet(case: Case, model: LanguageModel, objective: OnPolicy, name: str) -> Sheet:
    codec = case.codec(model.codec)
    prompts = [codec.prefix(one.prompt, one.tools) for one in case.records if isinstance(one, Posed)]
    far = counter(case.tell, f"writing {len(prompts)} answers: {name}")
    settings = Sampling(tokens=objective.tokens, stop=objective.stop)
    started = time.perf_counter()
    answers = [one for (one,) in model.writer.write(prompts, settings, far=far)]
    seconds = (time.perf_counter() - started) / len(prompts)
    texts = [one.text for one in answers]
    asked, said = (float(np.mean(list(map(len, tokens)))) for tokens in (prompts, [one.tokens for one in answers]))
    scores = worth(case, [record.where for record in case.records], texts)
    return Sheet(name, scores, said=texts, cost=Cost(len(prompts), asked, said, seconds))
