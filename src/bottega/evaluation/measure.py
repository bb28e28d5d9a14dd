"""How good a run is on rows it never saw, beside what it was tuned from: `bottega.evaluate(run)`.

Every number stands beside the same of the base, on the same rows, with a paired 95 % interval of the difference:
Newcombe's for shares of right answers, the jackknife's for the rest. A base knows no classes, so a classifier
stands beside the commonest label, a regression beside the mean, a tagger beside marking what was marked in the training
rows, a reward model beside taking the longer answer; and a masked language model beside the commonest tokens.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Ints, Row
from bottega.classifier import Classifier, Tagger
from bottega.data import sources
from bottega.data.codec import Codec, TemplateRefused
from bottega.data.words import Gazetteer
from bottega.embedder import Embedder
from bottega.errors import DataError, RunError
from bottega.evaluation.classes import Named
from bottega.evaluation.estimates import Estimate, Numbers, classes, f1, mean, share
from bottega.evaluation.leaks import leaked_rows
from bottega.evaluation.verdict import LEAKED, Verdict, judge
from bottega.feed import Reader, Told
from bottega.filling import MaskedModel
from bottega.language import LanguageModel
from bottega.objectives import HeadKind
from bottega.objectives.classify import Classify
from bottega.objectives.regress import Regress, number
from bottega.objectives.reward import Reward
from bottega.randomness import derive
from bottega.recipe import Reading, Recipe
from bottega.records import Entity, Labelled, Preference, Prompt, Record, Tagged, Text, Unusable
from bottega.runs import check_run, checksum, stored_place, stored_recipe
from bottega.sampling import Sampling

WRITTEN = 200
"""Most answers written out to be compared: writing is slow."""

LONGEST = 256
"""Most tokens of an answer that is written out; rows with a longer one are left out of it."""

TOP = 5
"""Among how many tokens, the likeliest first, the right one is looked for."""

PASSAGES = 10_000
"""Passages of the training rows in which tokens are counted."""

LABELS, EACH = 50, 4
"""Answers are labels where there are at most so many different ones, each so often on average."""

Tell = Callable[[str], None]
Numbers32 = NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    base     what the run is compared with, in words; None where it began from nothing
    of       sound rows there were to draw from
    dropped  rows that make no example, by reason
    leaked   rows, or their inputs, that stand in the training rows: left out, or the verdict is void; None where those
             rows are not to be had any more
    records  the rows measured, in the order of what estimates say of each
    named    of classes: what was right and what was said of each row
    """

    run: str
    base: str | None
    rows: int
    of: int
    dropped: dict[str, int]
    leaked: int | None
    estimates: list[Estimate]
    verdict: Verdict
    records: Sequence[Record] = field(default=(), repr=False)
    named: Named | None = field(default=None, repr=False, compare=False)

    def document(self) -> dict[str, Any]:
        """Plain data, each estimate with its finding."""
        names = ("run", "base", "rows", "of", "dropped", "leaked")
        found = {name: getattr(self, name) for name in names}
        estimates = [one.document() for one in self.estimates]
        classes = None if self.named is None else self.named.document()
        return {**found, "estimates": estimates, "verdict": asdict(self.verdict), "classes": classes}


def evaluate(
    run: str | Path, data: str | Sequence[str] | None = None, *, rows: int = 500, tell: Tell | None = None
) -> Evaluation:
    """Measure a finished run on its validation rows, or on `data` (paths or hub ids), read as the run read its own.

    rows  most of them, drawn by the run's seed
    tell  called with what is being done
    """
    folder, tell, told = check_run(Path(run)), tell or (lambda words: None), Told()
    recipe, place = stored_recipe(folder), stored_place(folder)
    if place is None:
        raise RunError("the run has not begun yet", where=str(folder), fix=f"bottega train --resume {folder}")
    own = getattr(recipe.objective, "file", None)
    if own is not None and place["files"].get(own) != checksum(Path(own)):
        what = "the objective has changed since the run began, so that it would measure something else"
        raise RunError(what, where=own, fix="put the old file back")
    tell("reading rows")
    records, of = _drawn(_held_out(recipe, place, data, told), rows, derive(recipe.seed, "evaluate"))
    if not records:
        raise DataError("no rows to measure on", where=str(folder), fix="give some: bottega evaluate RUN --data FILE")
    tell("looking for them in the training rows")
    learned = _learned(records, recipe)
    known, drawn = learned or set(), len(records)
    if len(known) < LEAKED * drawn:
        records = [record for number, record in enumerate(records) if number not in known]
    tell("loading the model")
    case = Case(folder, recipe, place["choices"], records, told.dropped["validation"], tell)
    base, measured = MEASURES[recipe.objective.head](case)
    found, declared = list(measured), recipe.verdict
    verdict = judge(found, metric=declared.metric, margin=declared.margin, base=base, leaked=len(known), of=drawn)
    return Evaluation(
        run=str(run),
        base=base,
        rows=len(case.records),
        of=of,
        dropped=dict(case.dropped),
        leaked=None if learned is None else len(known),
        estimates=found,
        verdict=verdict,
        records=case.records,
        named=case.named,
    )


@dataclass
class Case:
    """What is to be measured: a run, the choices it made, and rows; those that make no example move to `dropped`."""

    folder: Path
    recipe: Recipe
    choices: dict[str, Any]
    records: list[Record]
    dropped: Counter[str]
    tell: Tell
    named: Named | None = None

    @property
    def seed(self) -> int:
        return derive(self.recipe.seed, "measure")

    def codec(self, model: Codec) -> Codec:
        """The tokenizer of a loaded model with the limits the run had."""
        length, too_long = self.choices["max_length"], self.recipe.too_long
        return Codec(
            model.tokenizer,
            max_length=length,
            too_long=too_long,
            both_ways=model.both_ways,
            labels=list(model.labels),
            start=model.start,
        )

    def examples(self, codec: Codec) -> list[tuple[Row, ...]]:
        """The examples of the records, as training would see them."""
        found, kept = list[tuple[Row, ...]](), list[Record]()
        for record in self.records:
            try:
                found += self.recipe.objective.rows(record, codec)
                kept.append(record)
            except Unusable as unusable:
                self.dropped[unusable.reason] += 1
            except TemplateRefused as refused:
                if self.recipe.data.bad_rows != "drop":
                    raise
                self.dropped[refused.what] += 1
        if not kept:
            raise DataError(
                f"no row can be measured: {self.dropped.most_common(1)[0][0]}",
                where=self.records[0].where,
                fix="give other rows: bottega evaluate RUN --data FILE",
            )
        self.records = kept
        return found


# Rows


def _held_out(recipe: Recipe, place: dict[str, Any], data: str | Sequence[str] | None, told: Told) -> Iterator[Record]:
    """The rows to measure on, in the order they are read."""
    if data is None and isinstance(recipe.data.validation, float):
        _refuse_changed(recipe, place)
        return (record for side, _, record in Reader(recipe).records(told) if side == "validation")
    if data is None and recipe.data.validation is None:
        fix = "give some: bottega evaluate RUN --data FILE"
        raise DataError("the run held no rows out", where="data.validation", fix=fix)
    wanted = [one.model_dump() for one in recipe.validation_sources] if data is None else _given(recipe, data)
    document = recipe.document()
    document["data"] |= {"train": wanted, "validation": None}
    other = Recipe.parse(document | {"evaluate": None}, where="bottega evaluate")
    told.dropped["validation"] = told.dropped["train"]
    return (record for _, _, record in Reader(other).records(told))


def _given(recipe: Recipe, data: str | Sequence[str]) -> list[dict[str, Any]]:
    """Other rows as sources, read as the first of the run's own."""
    first = recipe.train_sources[0]
    reading = {name: getattr(first, name) for name in Reading.model_fields}
    return [{"path": path, **reading} for path in ([data] if isinstance(data, str) else data)]


def _refuse_changed(recipe: Recipe, place: dict[str, Any]) -> None:
    """Of files that have changed, other rows would be held out: some the run has learned."""
    for path in (path for source in recipe.train_sources for path in sources.files(source)):
        if not path.exists() or place["files"].get(str(path)) != checksum(path):
            what = "the file has changed since the run began, so that what it held out is not known"
            raise RunError(what, where=str(path), fix="put it back, or give rows: bottega evaluate RUN --data FILE")


def _drawn(records: Iterator[Record], most: int, seed: int) -> tuple[list[Record], int]:
    """At most so many of the records, each as likely as any other, in their order; and how many there were."""
    draw, kept, count = random.Random(seed), list[tuple[int, Record]](), 0
    for count, record in enumerate(records, 1):
        if len(kept) < most:
            kept.append((count, record))
        elif (place := draw.randrange(count)) < most:
            kept[place] = (count, record)
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])], count


def _learned(records: Sequence[Record], recipe: Recipe) -> set[int] | None:
    """The numbers of the records that the run learned; None where what it learned is gone, or far away."""
    if any(source.stream for source in recipe.train_sources):
        return None
    with contextlib.suppress(DataError):
        return leaked_rows(records, Reader(recipe).training())
    return None


# Language models


class Answered(NamedTuple):
    """A prompt, its right answer, and the row of both."""

    prompt: Prompt
    answer: str
    row: Row

    @property
    def asked(self) -> list[int]:
        """The tokens before the answer, as training saw them: a tokenizer may draw a space to either side."""
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
        return len(self.row.tokens) - (0 if self.row.source is not None else len(self.asked))


def _spoken(case: Case) -> tuple[str | None, Iterator[Estimate]]:
    """What the run is compared with, and the estimates of a language model."""
    model = LanguageModel(str(case.folder), dtype=case.choices["dtype"])
    codec = case.codec(model.codec)
    examples = case.examples(codec)
    base = None if model.origin is None else Path(model.origin).name
    return base, _spoken_estimates(case, model, codec, examples)


def _spoken_estimates(
    case: Case, model: LanguageModel, codec: Codec, examples: Sequence[tuple[Row, ...]]
) -> Iterator[Estimate]:
    rows = [row for example in examples for row in example]
    case.tell(f"scoring {len(rows)} rows")
    nll, base = _both(model, lambda one: -one.logp(rows))
    tokens = np.array([row.weight.sum() for row in rows], float)
    # KTO takes the two answers of a preference for two examples, one after the other.
    if len(rows) == 2 * len(case.records) and all(isinstance(record, Preference) for record in case.records):
        yield from _preferred(nll, base)
        yield mean("loss of the chosen", nll[0::2], None if base is None else base[0::2], tokens[0::2])
        return
    yield mean("loss", nll, base, tokens)
    yield mean("perplexity", nll, base, tokens, of=lambda value: np.exp(np.minimum(value, 700.0)))
    if len(rows) == len(case.records):
        yield from _answered(case, model, codec, rows)


def _both(model: LanguageModel, measured: Callable[[LanguageModel], Any]) -> tuple[Any, Any]:
    """What is measured of the run, and of what it was tuned from; None where it began from nothing."""
    found = measured(model)
    if model.origin is None:
        return found, None
    with model.untuned() as base:
        return found, measured(base)


def _preferred(nll: Numbers, base: Numbers | None) -> Iterator[Estimate]:
    """Of pairs, chosen first: how often the chosen answer is likelier, and how often it was raised more."""
    yield share("preference accuracy", nll[0::2] < nll[1::2], None if base is None else base[0::2] < base[1::2])
    if base is not None:
        raised = base - nll
        yield share("raised accuracy", raised[0::2] > raised[1::2], None)


def _answered(case: Case, model: LanguageModel, codec: Codec, rows: Sequence[Row]) -> Iterator[Estimate]:
    """Estimates of the answers, where the records have any that can be checked."""
    found = [(case.recipe.objective.asked(record), row) for record, row in zip(case.records, rows, strict=True)]
    asked = [Answered(*pair, row) for pair, row in found if pair is not None and pair[1].strip()]
    labels = sorted({one.answer for one in asked})
    if 1 < len(labels) <= min(LABELS, len(asked) // EACH):
        yield from _labelled(case, model, codec, asked, labels)
    draw = random.Random(case.seed)
    short = [one for one in asked if one.length <= LONGEST]
    if short:
        yield _matched(case, model, draw.sample(short, min(WRITTEN, len(short))))


def _labelled(
    case: Case, model: LanguageModel, codec: Codec, asked: Sequence[Answered], labels: list[str]
) -> Iterator[Estimate]:
    """Which of the labels each model finds likeliest: the kindest way to ask one that was not tuned."""
    case.tell(f"weighing {len(labels)} labels for {len(asked)} rows")
    rows, kept = list[Row](), list[int]()
    for one in asked:
        with contextlib.suppress(Unusable):  # a longer label may not fit where the answer does
            rows += [codec.continued("the answer", one.prompt, label) for label in labels]
            kept.append(labels.index(one.answer))
    if kept:
        named, base = _both(model, lambda one: one.logp(rows).reshape(-1, len(labels)).argmax(1))
        case.named = Named(labels, np.array(kept), named)
        yield from classes(np.array(kept), named, base)


def _matched(case: Case, model: LanguageModel, asked: Sequence[Answered]) -> Estimate:
    """How often the answer, written greedily, is the right one to the letter; white space around it aside."""
    case.tell(f"writing {len(asked)} answers")
    longest = max(one.length for one in asked)
    limit = model.limit or 1 << 30
    roomy = [one for one in asked if len(one.asked) + longest <= limit]
    # Near the model's last position each has its own room.
    groups = [group for group in (roomy, *([one] for one in asked if len(one.asked) + longest > limit)) if group]

    def right(writing: LanguageModel) -> list[bool]:
        found = []
        for group in groups:
            settings = Sampling(tokens=max(one.length for one in group))
            written = writing.writer.write([one.asked for one in group], settings)
            found += [text.text.strip() == one.answer.strip() for (text,), one in zip(written, group, strict=True)]
        return found

    return share("exact match", *_both(model, right))


# Classifiers, regressions and reward models

Found = tuple[str, Iterator[Estimate]]
"""What the run is compared with, and the estimates."""


def _scored(case: Case) -> Found:
    """Of scores of texts."""
    model = Classifier(str(case.folder), dtype=case.choices["dtype"])
    examples = case.examples(case.codec(model.codec))
    rows = [row for example in examples for row in example]
    case.tell(f"scoring {len(rows)} rows")
    scores = model.scores(rows)
    if isinstance(case.recipe.objective, Reward):
        longer = [_is_longer(chosen, rejected, case.seed) for chosen, rejected in examples]
        found = share("preference accuracy", scores[0::2, 0] > scores[1::2, 0], np.array(longer))
        return "taking the longer answer", iter([found])
    if isinstance(case.recipe.objective, Regress):
        return _measured(case, rows, scores[:, 0])
    case.tell("counting labels")
    counts = case.recipe.objective.labels(Reader(case.recipe).training())
    if isinstance(case.recipe.objective, Classify) and case.recipe.objective.multi_label:
        return _each_label(case, model, counts, rows, scores)
    # One more of each: a label seen in no row has some chance all the same.
    frequency = np.array([counts.get(label, 0) + 1.0 for label in model.labels])
    frequency /= frequency.sum()
    right = np.array([row.label[0] for row in rows], np.int64)
    chances, named = model.chances(scores), scores.argmax(1)
    case.named = Named(model.labels, right, named, chances.max(1))
    nll = -np.log(chances)[np.arange(len(rows)), right]
    loss = mean("loss", nll, -np.log(frequency)[right], np.ones(len(rows)))
    common = np.full(len(rows), frequency.argmax())
    words = f"always {model.labels[common[0]]}, the commonest label"
    return words, iter([loss, *classes(right, named, common)])


def _measured(case: Case, rows: Sequence[Row], found: Numbers) -> Found:
    """Of a regression, beside the mean of the training rows."""
    training = [number(record) for record in Reader(case.recipe).training() if isinstance(record, Labelled)]
    right, usual, one = np.array([row.label[0] for row in rows]), float(np.mean(training)), np.ones(len(rows))
    error = mean("mean error", np.abs(found - right), np.abs(usual - right), one)
    square = mean("root mean squared error", (found - right) ** 2, (usual - right) ** 2, one, of=np.sqrt)
    return f"always {usual:.4g}, the mean of the training rows", iter([error, square])


def _each_label(
    case: Case, model: Classifier, counts: dict[str, int], rows: Sequence[Row], scores: NDArray[np.float64]
) -> Found:
    """Of any number of labels a text, beside the commonest alone."""
    right = np.concatenate([row.columns["present"] for row in rows]) > 0
    found, common = scores > 0, np.zeros_like(right)
    usual = max(counts, key=lambda label: counts[label])
    common[:, model.labels.index(usual)] = True
    exact = share("all labels right", (found == right).all(1), (common == right).all(1))
    ours, theirs = (np.stack([(one & right).sum(1), one.sum(1) + right.sum(1)], 1) for one in (found, common))
    return f"always {usual}, the commonest label", iter([exact, f1("micro-F1", ours, theirs)])


# Taggers


def _tagged(case: Case) -> Found:
    """Of tags of words, beside marking what was marked in the training rows."""
    model = Tagger(str(case.folder), dtype=case.choices["dtype"])
    codec = case.codec(model.codec)
    rows = [row for (row,) in case.examples(codec)]
    case.tell(f"tagging {len(rows)} rows")
    records = [record for record in case.records if isinstance(record, Tagged)]
    found = model.spans(rows, [codec.words(record.where, record.text)[1] for record in records])
    known = Gazetteer(record for record in Reader(case.recipe).training() if isinstance(record, Tagged))
    usual = [list(known.spans(record.text)) for record in records]
    estimates = []
    right = [record.spans for record in records]
    for name, fields in (("span F1", 3), ("span F1, kinds aside", 2)):
        ours, theirs = (_agreement(spans, right, fields) for spans in (found, usual))
        estimates.append(f1(name, ours, theirs))
    return "marking what was marked in the training rows", iter(estimates)


def _agreement(found: Sequence[Iterable[Entity]], right: Sequence[Iterable[Entity]], fields: int) -> NDArray[np.int64]:
    """[R, 2] spans that agree in their first fields, and all of both."""
    sets = (({span[:fields] for span in one} for one in pair) for pair in zip(found, right, strict=True))
    return np.array([(len(one & other), len(one) + len(other)) for one, other in sets])


# Masked language models


def _filled(case: Case) -> Found:
    """Of what stands at masked places, beside the commonest tokens of the training rows."""
    model = MaskedModel(str(case.folder), dtype=case.choices["dtype"])
    codec = case.codec(model.codec)
    rows = [row for (row,) in case.examples(codec)]
    case.tell("counting tokens")
    counts = np.ones(len(codec.tokenizer))
    seen = (ids for record in Reader(case.recipe).training() for ids in _passages(record, codec))
    for ids in islice(seen, PASSAGES):
        counts += np.bincount(ids[codec.is_ordinary[ids]], minlength=len(counts))
    usual = np.argsort(-counts, kind="stable")[:TOP]
    case.tell(f"filling in {len(rows)} rows")
    nll, top, first = (np.zeros(len(rows)) for _ in range(3))
    for place, row in enumerate(rows):
        chances = model.chances(row)
        label = torch.from_numpy(row.label)
        nll[place] = -float(chances.gather(1, label[:, None]).log().sum())
        best = chances.topk(TOP).indices == label[:, None]
        top[place], first[place] = float(best.any(1).sum()), float(best[:, 0].sum())
    size = np.array([float(len(row.at)) for row in rows])
    guess = [np.array([float(np.isin(row.label, usual[:most]).sum()) for row in rows]) for most in (1, TOP)]
    before = np.array([float(-np.log(counts / counts.sum())[row.label].sum()) for row in rows])
    return "the commonest tokens of the training rows", iter(
        [
            mean("loss", nll, before, size),
            mean("right", first, guess[0], size, higher=True),
            mean(f"right among the first {TOP}", top, guess[1], size, higher=True),
        ]
    )


# Embeddings


def _embedded(case: Case) -> tuple[str | None, Iterator[Estimate]]:
    """Of vectors of texts, beside those of what the run began from."""
    model = Embedder(str(case.folder), dtype=case.choices["dtype"])
    examples = case.examples(case.codec(model.codec))
    rows = [row for example in examples for row in example]
    case.tell(f"embedding {len(rows)} texts")
    adapter, theirs = case.recipe.adapter, None
    ours, base = model.vectors(rows), (adapter.start if adapter else None) or case.recipe.model.base
    if base is not None:
        case.tell("embedding them with the base")
        before = Embedder(base, pooling=model.pooling, dtype=case.choices["dtype"], any_run=True)
        theirs = before.vectors(rows)
    return None if base is None else Path(base).name, _nearness(case, rows, ours, theirs)


def _nearness(case: Case, rows: Sequence[Row], ours: Numbers32, theirs: Numbers32 | None) -> Iterator[Estimate]:
    """Whether what belongs to a text is nearest to it, of all there is; and how far a cosine is from its score."""
    columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
    if columns["anchor"].any():
        place, base = (None if found is None else _ranks(found, columns) for found in (ours, theirs))
        assert place is not None
        yield share("nearest is right", place == 1, None if base is None else base == 1)
        one = np.ones(len(place))
        yield mean("reciprocal rank", 1 / place, None if base is None else 1 / base, one, higher=True)
    second = np.flatnonzero(columns["compared"])
    if len(second):
        wrong, base = (
            None if found is None else np.abs((found[second - 1] * found[second]).sum(1) - columns["score"][second])
            for found in (ours, theirs)
        )
        assert wrong is not None
        yield mean("mean error of the cosine", wrong, base, np.ones(len(second)))


def _ranks(vectors: Numbers32, columns: dict[str, NDArray[Any]]) -> Numbers:
    """[A] the place of each anchor's positive among all texts it might belong to, 1 for the nearest."""
    anchors = np.flatnonzero(columns["anchor"])
    others = np.flatnonzero((columns["pair"] > 0) & (columns["compared"] == 0))
    own = np.flatnonzero(columns["positive"][others])
    cosine = vectors[anchors] @ vectors[others].T
    known = columns["text"][anchors][:, None] == columns["text"][others][None]
    known |= columns["belongs"][anchors][:, None] == columns["belongs"][others][None]
    known |= columns["text"][others][own][:, None] == columns["text"][others][None]
    right = cosine[np.arange(len(anchors)), own]
    return np.asarray(1.0 + ((cosine > right[:, None]) & ~known).sum(1))


def _passages(record: Record, codec: Codec) -> list[Ints]:
    with contextlib.suppress(Unusable):
        return codec.passages(record) if isinstance(record, Text) else []
    return []


MEASURES: dict[HeadKind, Callable[[Case], tuple[str | None, Iterator[Estimate]]]] = {
    "language": _spoken,
    "class": _scored,
    "token": _tagged,
    "masked": _filled,
    "embedding": _embedded,
}
"""What is measured of a model with each head."""


def _is_longer(chosen: Row, rejected: Row, seed: int) -> bool:
    """Whether the chosen answer has more tokens; of equals, by the toss of a coin."""
    difference = len(chosen.tokens) - len(rejected.tokens)
    return difference > 0 if difference else bool(random.Random(f"{seed} {chosen.tokens.tobytes()!r}").getrandbits(1))
