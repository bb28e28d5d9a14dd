"""What is measured, on which rows, beside what; and what comes of it for one model."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch

from bottega.batch import Row
from bottega.data.reader import Reader
from bottega.errors import DataError
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.cost import Cost
from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.retrieval import Bm25Retriever, DenseRetriever, Retriever
from bottega.inference.embedder import Embedder
from bottega.metrics.answers import Metric, fitting
from bottega.metrics.scores import Scores
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.progress import StatusCallback
from bottega.recipe.schema import Recipe
from bottega.records import Record, Unusable
from bottega.seeding import derive
from bottega.tokenization.chat_template import TemplateRefused
from bottega.tokenization.codec import Codec
from bottega.training.dataset import day_of
from bottega.training.reward_models import Judges

T = TypeVar("T")

MAX_POOL_RECORDS = 20_000
"""Most training rows among which neighbours and examples are looked for."""


@dataclass(frozen=True)
class ModelResult:
    """What one contender answered.

    name   what it is, in words
    base   it is what the run was tuned from, or the least that could be done
    effects what it does besides what is measured
    named  of classes: what was right and what was said of each row
    said   [R] its answers in words; None where it wrote none
    """

    name: str
    scores: Sequence[Scores]
    named: ClassPredictions | None = None
    said: Sequence[str | None] | None = None
    cost: Cost | None = None
    base: bool = False
    effects: Sequence[Scores] = ()


@dataclass(frozen=True)
class Means:
    """What a run is compared with, and what that takes.

    rivals     what the run is compared with besides what it was tuned from
    shots      examples that a model is shown
    answers    most answers that are written out
    documents  texts to look things up in
    encoder    whose vectors say which texts are near; None for the words they share
    judge      a model that marks what is written
    scorers    further ways to mark it
    known      sources of rows that contenders draw on in place of the training rows
    tasks      of the lm-evaluation-harness, and `questions`, the most of each
    general    files of texts that say what is forgotten
    harmful    a file of requests that should be refused, and `harmless`, of those that should not
    """

    rivals: Sequence[Baseline] = ()
    shots: int = 5
    answers: int = 200
    documents: Sequence[str] = ()
    encoder: str | None = None
    judge: Endpoint | None = None
    scorers: Sequence[Metric] = ()
    known: Sequence[Mapping[str, Any]] = ()
    tasks: Sequence[str | Mapping[str, Any]] = ()
    questions: int | None = None
    general: Sequence[str] = ()
    harmful: str | None = None
    harmless: str | None = None

    def metrics(self, answers: Sequence[str]) -> tuple[list[Metric], list[str]]:
        """By which answers such as these right ones are marked; and the names of those whose package is not there."""
        found, absent = fitting(answers)
        return [*found, *self.scorers], absent


@dataclass
class EvaluationContext:
    """What is to be measured: a run, the choices it made, and rows; those that make no example move to `dropped`.

    spares     further rows, in an order drawn at random, that stand in for those the run can make no example of
    unasked    rivals that could not be asked, and why
    """

    folder: Path
    recipe: Recipe
    choices: dict[str, Any]
    records: list[Record]
    dropped: Counter[str]
    tell: StatusCallback
    means: Means = Means()
    spares: list[Record] = field(default_factory=list)
    unasked: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, why: str) -> None:
        """Tell of a rival that could not be asked, or not all, or not as it was meant."""
        self.unasked[name] = "; ".join(filter(None, (self.unasked.get(name), why)))

    @property
    def seed(self) -> int:
        return derive(self.recipe.seed, "measure")

    @property
    def dtype(self) -> str:
        """What the run was trained in."""
        dtype: str = self.choices["dtype"]
        return dtype

    def codec(self, model: Codec) -> Codec:
        """The tokenizer of a loaded model with the limits the run had."""
        length, too_long = self.choices["max_length"], self.recipe.too_long
        return Codec(
            model.tokenizer,
            max_length=length,
            too_long=too_long,
            both_ways=model.both_ways,
            labels=list(model.labels),
            decoder_start=model.decoder_start,
            day=day_of(self.choices),
        )

    def examples(self, codec: Codec) -> list[tuple[Row, ...]]:
        """The examples of the records, as training would see them."""
        examined = self.recipe.objective.examined
        return [rows for found in self.made(lambda record: examined(record, codec)) for rows in found]

    def made(self, make: Callable[[Record], T]) -> list[T]:
        """What is made of each record; those of which nothing can be made move to `dropped`.

        What the run makes comes first, and takes spares in their place; all others are asked the same as the run.
        """
        found, kept, wanted = list[T](), list[Record](), len(self.records)
        for record in chain(self.records, self.spares):
            if len(kept) == wanted:
                break
            try:
                found.append(make(record))
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
        self.records, self.spares = kept, []
        return found

    def index(self, texts: Sequence[str], encoder: str | None) -> Retriever:
        """What finds the nearest of these texts: by an encoder's vectors, or else by the words they share."""
        if encoder is None:
            return Bm25Retriever(texts)
        return DenseRetriever(texts, Embedder(encoder, dtype=self.dtype, any_run=True))

    @cached_property
    def judges(self) -> Judges:
        """Reward models, each loaded once for all contenders."""
        return Judges("cuda" if torch.cuda.is_available() else "cpu", self.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        """The run's own."""
        return load_tokenizer(locate(str(self.folder.absolute())).tokenizer)

    def training(self) -> Iterator[Record]:
        """The rows the run learned from."""
        return Reader(self.recipe).training()

    @property
    def those_known(self) -> str:
        """What contenders draw on, in words."""
        return "known rows" if self.means.known else "training rows"

    @cached_property
    def _knowing(self) -> Recipe:
        return with_sources(self.recipe, self.means.known) if self.means.known else self.recipe

    def known(self) -> Iterator[Record]:
        """The rows that contenders draw on: what the run learned from, unless others are given."""
        return Reader(self._knowing).training()

    @cached_property
    def pool(self) -> list[Record]:
        """Some of the rows known, to find neighbours among; none where they are gone, or far away."""
        return self._some(self._knowing)

    @cached_property
    def learned(self) -> list[Record]:
        """The same of the training rows."""
        return self._some(self.recipe) if self.means.known else self.pool

    def _some(self, recipe: Recipe) -> list[Record]:
        if any(source.stream for source in recipe.train_sources):
            return []
        with contextlib.suppress(DataError):
            return sample_records(Reader(recipe).training(), MAX_POOL_RECORDS, derive(self.recipe.seed, "pool"))[0]
        return []


def with_sources(recipe: Recipe, wanted: Sequence[Mapping[str, Any]]) -> Recipe:
    """The same recipe, learning from other sources, and holding nothing out."""
    document = recipe.document()
    document["data"] |= {"train": list(wanted), "validation": None}
    return Recipe.parse(document | {"evaluate": None}, where="bottega evaluate")


class ReservoirSample:
    """At most so many of the records that it takes, each as likely as any other."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.count = most, 0
        self._random, self._kept = random.Random(seed), list[tuple[int, Record]]()

    def take(self, record: Record) -> Record | None:
        """Take one more; what is not kept, or no longer, comes back."""
        self.count += 1
        if self.count <= self.most:
            self._kept.append((self.count, record))
            return None
        place = self._random.randrange(self.count)
        if place >= self.most:
            return record
        (_, left), self._kept[place] = self._kept[place], (self.count, record)
        return left

    @property
    def records(self) -> list[Record]:
        """Those kept, in the order in which they were taken."""
        return [record for _, record in sorted(self._kept, key=lambda pair: pair[0])]


def sample_records(
    records: Iterable[Record], most: int, seed: int, spares: int = 0
) -> tuple[list[Record], list[Record], int]:
    """(at most so many of the records, drawn at random, in their order; spares; how many there were)."""
    draw, others = ReservoirSample(most, seed), ReservoirSample(spares, derive(seed, "spares"))
    for record in records:
        left = draw.take(record)
        if left is not None:
            others.take(left)
    kept = others.records
    return draw.records, random.Random(derive(seed, "spares")).sample(kept, len(kept)), draw.count
