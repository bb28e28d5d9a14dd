"""How good a run is on rows it never saw, beside what it was tuned from: `bottega.evaluate(run)`.

Every number stands beside the same of the base, on the same rows, with a paired 95 % interval of the difference:
Newcombe's for shares of right answers, a bootstrap over rows for the rest. A classifier's base knows no classes, so a
classifier stands beside the commonest label, and a reward model beside taking the longer answer.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.classifier import Classifier
from bottega.data.codec import Codec
from bottega.errors import DataError, RunError
from bottega.evaluation.stats import bootstrap, macro_f1, paired_difference
from bottega.feed import Reader
from bottega.language import LanguageModel
from bottega.randomness import derive
from bottega.recipe import Recipe
from bottega.records import Labelled, Prompt, Record, Unusable
from bottega.runs import check_run, stored_place, stored_recipe
from bottega.sampling import Sampling

WRITTEN = 200
"""Most answers written out to be compared: writing is slow."""

LABELS, EACH = 50, 4
"""Answers are labels where there are at most so many different ones, each so often on average."""

LONGEST = 256
"""Most tokens of an answer written."""

Finding = Literal["better", "worse", "unsure"]
Tell = Callable[[str], None]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number of the run, the same of the base, and the interval of run minus base; None where there is no base."""

    metric: str
    rows: int
    run: float
    base: float | None
    interval: tuple[float, float] | None
    higher: bool = True
    """Whether more is better."""

    @property
    def finding(self) -> Finding | None:
        if self.interval is None:
            return None
        low, high = self.interval
        if low <= 0 <= high:
            return "unsure"
        return "better" if (low > 0) == self.higher else "worse"


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    base     what the run is compared with, in words; None where it began from nothing
    of       rows there were to draw from
    dropped  rows that make no example, by reason
    """

    run: str
    base: str | None
    rows: int
    of: int
    dropped: dict[str, int]
    estimates: list[Estimate]

    def document(self) -> dict[str, Any]:
        """Plain data, each estimate with its finding."""
        found = asdict(self)
        found["estimates"] = [{**asdict(one), "finding": one.finding} for one in self.estimates]
        return found


class Answered(NamedTuple):
    """A prompt and its right answer."""

    prompt: Prompt
    answer: str


def evaluate(
    run: str | Path, data: str | Sequence[str] | None = None, *, rows: int = 500, tell: Tell | None = None
) -> Evaluation:
    """Measure a finished run on its validation rows, or on `data` (paths or hub ids), read as the run read its own.

    rows  most of them, drawn by the run's seed
    tell  called with what is being done
    """
    folder, tell = check_run(Path(run)), tell or (lambda words: None)
    recipe = stored_recipe(folder)
    tell("reading rows")
    records, of = _drawn(_held_out(recipe, data), rows, derive(recipe.seed, "evaluate"))
    if not records:
        raise DataError("no rows to measure on", where=str(folder), fix="give some: bottega evaluate RUN --data FILE")
    measure = _scored if recipe.objective.head == "class" else _spoken
    base, dropped, estimates = measure(folder, recipe, records, tell)
    return Evaluation(str(run), base, len(records) - dropped.total(), of, dict(dropped), list(estimates))


def _held_out(recipe: Recipe, data: str | Sequence[str] | None) -> Iterator[Record]:
    """The rows to measure on, in the order they are read."""
    validation = recipe.validation_sources
    if data is None and not validation:
        if recipe.data.validation is None:
            fix = "give some: bottega evaluate RUN --data FILE"
            raise DataError("the run held no rows out", where="data.validation", fix=fix)
        return (record for side, _, record in Reader(recipe).records() if side == "validation")
    sources: Any = [data] if isinstance(data, str) else list(data or [])
    document = recipe.document()
    document["data"] |= {"train": sources or [one.model_dump() for one in validation], "validation": None}
    other = Recipe.parse(document | {"evaluate": None}, where="bottega evaluate")
    return (record for _, _, record in Reader(other).records())


def _drawn(records: Iterator[Record], most: int, seed: int) -> tuple[list[Record], int]:
    """At most so many of the records, each as likely as any other, in their order; and how many there were."""
    draw, kept, count = random.Random(seed), list[tuple[int, Record]](), 0
    for count, record in enumerate(records, 1):
        if len(kept) < most:
            kept.append((count, record))
        elif (place := draw.randrange(count)) < most:
            kept[place] = (count, record)
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])], count


class Measured(NamedTuple):
    """What there is to compare with, rows dropped by reason, and the estimates."""

    base: str | None
    dropped: Counter[str]
    estimates: Iterator[Estimate]


def _choices(folder: Path) -> dict[str, Any]:
    """What the run chose when it began: the same is chosen here."""
    place = stored_place(folder)
    if place is None:
        raise RunError("the run has not begun yet", where=str(folder), fix=f"bottega train --resume {folder}")
    return dict(place["choices"])


def _encoded(recipe: Recipe, records: Sequence[Record], codec: Codec) -> tuple[list[tuple[Row, ...]], Counter[str]]:
    examples, dropped = list[tuple[Row, ...]](), Counter[str]()
    for record in records:
        try:
            examples += recipe.objective.rows(record, codec)
        except Unusable as unusable:
            dropped[unusable.reason] += 1
    if not examples:
        raise DataError(f"no row can be measured: {dropped.most_common(1)[0][0]}", where=records[0].where)
    return examples, dropped


# Language models


def _spoken(folder: Path, recipe: Recipe, records: Sequence[Record], tell: Tell) -> Measured:
    tell("loading the model")
    choices = _choices(folder)
    model = LanguageModel(str(folder), dtype=choices["dtype"])
    codec = Codec(model.codec.tokenizer, max_length=choices["max_length"], too_long=recipe.too_long)
    examples, dropped = _encoded(recipe, records, codec)
    return Measured(_named(model.origin), dropped, _spoken_estimates(recipe, records, model, codec, examples, tell))


def _spoken_estimates(
    recipe: Recipe,
    records: Sequence[Record],
    model: LanguageModel,
    codec: Codec,
    examples: Sequence[tuple[Row, ...]],
    tell: Tell,
) -> Iterator[Estimate]:
    seed = derive(recipe.seed, "bootstrap")
    rows = [row for example in examples for row in example]
    tell(f"scoring {len(rows)} rows")
    nll, base_nll = _both(model, lambda one: -np.array(one.logp(rows)))
    tokens = np.array([row.weight.sum() for row in rows], float)
    if len(rows) == 2 * len(examples):
        yield from _preferred(nll, base_nll)
        before = None if base_nll is None else base_nll[0::2]
        yield _mean("loss of the chosen", nll[0::2], before, tokens[0::2], seed)
    else:
        yield _mean("loss", nll, base_nll, tokens, seed)
        yield _mean("perplexity", nll, base_nll, tokens, seed, of=_exp)
    asked = [Answered(*found) for record in records if (found := recipe.objective.asked(record)) and found[1].strip()]
    labels = sorted({one.answer for one in asked})
    if asked and len(labels) <= min(LABELS, len(asked) // EACH):
        yield from _labelled(model, codec, asked, labels, seed, tell)
    if asked:
        yield _matched(model, asked[:WRITTEN], tell)


def _both(model: LanguageModel, measured: Callable[[LanguageModel], Any]) -> tuple[Any, Any]:
    """What is measured of the run, and of what it was tuned from; None where it began from nothing."""
    found = measured(model)
    if model.origin is None:
        return found, None
    with model.untuned() as base:
        return found, measured(base)


def _preferred(nll: Numbers, base_nll: Numbers | None) -> Iterator[Estimate]:
    """Of pairs, chosen first: how often the chosen answer is likelier, and how often it was raised more."""
    before = None if base_nll is None else base_nll[0::2] < base_nll[1::2]
    yield _share("preference accuracy", nll[0::2] < nll[1::2], before)
    if base_nll is not None:
        raised = base_nll - nll
        yield _share("raised accuracy", raised[0::2] > raised[1::2], None)


def _labelled(
    model: LanguageModel, codec: Codec, asked: Sequence[Answered], labels: list[str], seed: int, tell: Tell
) -> Iterator[Estimate]:
    """Which of the labels each model finds likeliest: the kindest way to ask one that was not tuned."""
    tell(f"weighing {len(labels)} labels for {len(asked)} rows")
    rows, kept = list[Row](), list[int]()
    for one in asked:
        with contextlib.suppress(Unusable):  # counted among the dropped
            rows += [codec.continued("the answer", one.prompt, label) for label in labels]
            kept.append(labels.index(one.answer))
    named, base = _both(model, lambda one: np.array(one.logp(rows)).reshape(-1, len(labels)).argmax(1))
    yield from _classes(np.array(kept), named, base, seed)


def _matched(model: LanguageModel, asked: Sequence[Answered], tell: Tell) -> Estimate:
    """How often the answer, written greedily, is the right one to the letter; white space around it aside."""
    tell(f"writing {len(asked)} answers")
    longest = max(len(model.codec.prefix(one.answer)) for one in asked)
    settings = Sampling(tokens=min(longest + 8, LONGEST))

    def right(one: LanguageModel) -> list[bool]:
        room = [prompt for prompt, _ in asked if one.room(prompt) > 0]
        written = iter(one.generate(room, settings))
        return [one.room(prompt) > 0 and next(written)[0].text.strip() == gold.strip() for prompt, gold in asked]

    return _share("exact match", *_both(model, right))


# Classifiers and reward models


def _scored(folder: Path, recipe: Recipe, records: Sequence[Record], tell: Tell) -> Measured:
    tell("loading the model")
    model = Classifier(str(folder), dtype=_choices(folder)["dtype"])
    examples, dropped = _encoded(recipe, records, model.codec)
    rows = [row for example in examples for row in example]
    tell(f"scoring {len(rows)} rows")
    scores = model.scores(rows)
    if len(rows) == 2 * len(examples):
        longer = np.array([len(chosen.tokens) > len(rejected.tokens) for chosen, rejected in examples])
        share = _share("preference accuracy", scores[0::2, 0] > scores[1::2, 0], longer)
        return Measured("taking the longer answer", dropped, iter([share]))
    tell("counting labels")
    seen = Counter(record.label for record in Reader(recipe).training() if isinstance(record, Labelled))
    frequency = np.array([seen[label] for label in model.labels]) / seen.total()
    right = np.array([row.label[0] for row in rows], np.int64)
    logp = scores - scores.max(1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(1, keepdims=True))
    of = np.arange(len(rows)), right
    seed = derive(recipe.seed, "bootstrap")
    loss = _mean("loss", -logp[of], -np.log(frequency)[right], np.ones(len(rows)), seed)
    common = np.full(len(rows), frequency.argmax())
    classes = _classes(right, scores.argmax(1), common, seed)
    return Measured(f"always {model.labels[common[0]]}, the commonest label", dropped, iter([loss, *classes]))


# Estimates


def _classes(right: Any, named: Any, base: Any, seed: int) -> Iterator[Estimate]:
    """Accuracy and macro-F1 of class numbers."""
    yield _share("label accuracy", named == right, None if base is None else base == right)

    def gain(drawn: Any) -> float:
        return macro_f1(right[drawn], named[drawn]) - macro_f1(right[drawn], base[drawn])

    interval = None if base is None else bootstrap(gain, len(right), seed=seed)
    before = None if base is None else macro_f1(right, base)
    yield Estimate("macro-F1", len(right), macro_f1(right, named), before, interval)


def _share(metric: str, run: Any, base: Any) -> Estimate:
    """An estimate of how often something is right."""
    if base is None:
        return Estimate(metric, len(run), float(np.mean(run)), None, None)
    return Estimate(metric, len(run), float(np.mean(run)), float(np.mean(base)), paired_difference(run, base))


def _mean(
    metric: str, run: Numbers, base: Numbers | None, weight: Numbers, seed: int, of: Callable[[float], float] = float
) -> Estimate:
    """An estimate of a sum over rows by their summed weight, the lower the better."""
    value = of(run.sum() / weight.sum())
    if base is None:
        return Estimate(metric, len(run), value, None, None, higher=False)

    def gain(drawn: Any) -> float:
        total = weight[drawn].sum()
        return of(run[drawn].sum() / total) - of(base[drawn].sum() / total)

    interval = bootstrap(gain, len(run), seed=seed)
    return Estimate(metric, len(run), value, of(base.sum() / weight.sum()), interval, higher=False)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _named(origin: str | None) -> str | None:
    return None if origin is None else Path(origin).name
