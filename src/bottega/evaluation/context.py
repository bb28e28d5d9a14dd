"""What all tasks of an evaluation share: the run, the records it is evaluated on, options and baselines.

A task scores the run first and then each baseline on the same records; each gives one `ModelResult`.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from bottega.batch import Row
from bottega.data.reader import RecipeReader
from bottega.errors import DataError
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.cost import Cost
from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.options import EvaluateOptions
from bottega.evaluation.retrieval import Bm25Retriever, DenseRetriever, Retriever
from bottega.hardware.device import resolve_device
from bottega.inference.embedder import Embedder
from bottega.metrics.answers import Metric, applicable_metrics
from bottega.metrics.scores import Scores
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.progress import StatusCallback
from bottega.recipe.schema import Recipe
from bottega.records import Record, Unusable
from bottega.seeding import derive
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec
from bottega.training.dataset import day_of
from bottega.training.judges import LoadedJudges

T = TypeVar("T")

# Of more training rows a sample is searched for neighbors and examples: an index of all might not fit memory.
MAX_POOL_RECORDS = 20_000


@dataclass(frozen=True)
class ModelResult:
    """Per-row scores of one model or baseline, and what else is known of it.

    name         a short description of the model
    predictions  for classes: reference and predicted class of each row
    answers      [R] generated answers; None where it generated none
    base         it is the base model of the run, or a trivial baseline
    effects      side effects: forgetting, memorization, refusals
    records      [R] the rows that were scored, and `dropped`, how many could not be, by reason; of the run only
    """

    name: str
    scores: Sequence[Scores]
    predictions: ClassPredictions | None = None
    answers: Sequence[str | None] | None = None
    cost: Cost | None = None
    base: bool = False
    effects: Sequence[Scores] = ()
    records: Sequence[Record] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples(Generic[T]):
    """What was built from records: `values[i]` from `records[i]`; `dropped` counts the others by reason."""

    records: list[Record]
    values: list[T]
    dropped: Counter[str]


@dataclass(frozen=True)
class EvaluationContext:
    """What every task needs to evaluate a run.

    The records never change while models are compared: a task builds the run's examples once, with `build`, and passes
    the records that were kept to whatever else it scores.

    choices           what the run recorded in `place.json`: dtype, maximum length, labels …
    records           candidates, in their order
    progress          called with what is being done
    spares            further records in random order, which replace those the run can build no example from
    passages          texts that the baseline `retrieval` searches
    baseline_sources  sources of rows that baselines use instead of the training rows
    notes             baselines that were not scored, or only partly, and why: a log, never read while scoring
    """

    folder: Path
    recipe: Recipe
    choices: dict[str, Any]
    records: Sequence[Record]
    progress: StatusCallback
    options: EvaluateOptions = field(default_factory=EvaluateOptions)
    spares: Sequence[Record] = ()
    baselines: Sequence[Baseline] = ()
    passages: Sequence[str] = ()
    judge: Endpoint | None = None
    user_metrics: Sequence[Metric] = ()
    baseline_sources: Sequence[Mapping[str, Any]] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, reason: str) -> None:
        """Note that a baseline was not scored, or not on all rows, or not as intended."""
        self.notes[name] = "; ".join(filter(None, (self.notes.get(name), reason)))

    @property
    def seed(self) -> int:
        # The purpose decides which rows are sampled; another word would change every result.
        return derive(self.recipe.seed, "measure")

    @property
    def dtype(self) -> str:
        """The dtype the run was trained in."""
        dtype: str = self.choices["dtype"]
        return dtype

    def codec(self, model: Codec) -> Codec:
        """The codec of a loaded model, within the length limits of the run."""
        # The loaded model's codec truncates, as users expect of it; here rows must be dropped or cut as in training.
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

    def metrics(self, answers: Sequence[str]) -> tuple[list[Metric], list[str]]:
        """Metrics of generated answers for such reference answers; and those whose package is not installed."""
        built_in, missing = applicable_metrics(answers)
        return [*built_in, *self.user_metrics], missing

    def build(self, make: Callable[[Record], T]) -> Examples[T]:
        """What the run makes of the records, spares replacing those that give nothing; a DataError where none does."""
        kept, values, dropped = list[Record](), list[T](), Counter[str]()
        # Records first and spares only as needed, so that without spares the same rows are evaluated as before.
        for record in chain(self.records, self.spares):
            if len(kept) == len(self.records):
                break
            value, reason = self._try(record, make)
            if reason is None:
                kept.append(record)
                values.append(cast(T, value))
            else:
                dropped[reason] += 1
        if not kept:
            raise DataError(
                f"no row can be evaluated: {dropped.most_common(1)[0][0]}",
                where=self.records[0].where,
                fix="give other rows: bottega evaluate RUN --data FILE",
            )
        return Examples(kept, values, dropped)

    def build_examples(self, codec: Codec) -> Examples[list[tuple[Row, ...]]]:
        """The examples of each record, as validation during training builds them."""
        return self.build(lambda record: self.recipe.objective.evaluation_rows(record, codec))

    def build_same(
        self, name: str, records: Sequence[Record], make: Callable[[Record], T]
    ) -> tuple[list[int], list[T]]:
        """What a baseline makes of the run's records: (indices of those it can read, the values).

        No spares here: a baseline is compared on rows that both can read. What is left out is noted under `name`.
        """
        indices, values = list[int](), list[T]()
        for index, record in enumerate(records):
            # A baseline with another chat template may refuse what the run reads; that must not end the evaluation.
            with contextlib.suppress(Unusable, ChatTemplateError):
                values.append(make(record))
                indices.append(index)
        if len(indices) < len(records):
            self.note(name, f"it cannot read {len(records) - len(indices)} of {len(records)} rows; they are left out")
        return indices, values

    def _try(self, record: Record, make: Callable[[Record], T]) -> tuple[T | None, str | None]:
        """(the value, None), or (None, the reason why the record gives none)."""
        try:
            return make(record), None
        except Unusable as unusable:
            return None, unusable.reason
        except ChatTemplateError as refused:
            # A template that refuses the run's own rows is a mistake in the data, unless bad rows are to be dropped.
            if self.recipe.data.bad_rows != "drop":
                raise
            return None, refused.what

    def retriever(self, texts: Sequence[str], encoder: str | None) -> Retriever:
        """A search index over the texts: by the embeddings of an encoder, or by BM25."""
        if encoder is None:
            return Bm25Retriever(texts)
        return DenseRetriever(texts, Embedder(encoder, dtype=self.dtype, any_run=True))

    @cached_property
    def judges(self) -> LoadedJudges:
        """Reward models, each loaded once for all baselines."""
        return LoadedJudges(resolve_device(), self.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the run."""
        return load_tokenizer(locate(str(self.folder.absolute())).tokenizer)

    def training_records(self) -> Iterator[Record]:
        """The rows the run was trained on."""
        return RecipeReader(self.recipe).training()

    @property
    def baseline_rows(self) -> str:
        """A name for the rows that baselines use, for messages."""
        return "known rows" if self.baseline_sources else "training rows"

    @cached_property
    def _baseline_recipe(self) -> Recipe:
        return with_sources(self.recipe, self.baseline_sources) if self.baseline_sources else self.recipe

    def baseline_records(self) -> Iterator[Record]:
        """The rows that baselines use: the training rows, unless others are given."""
        return RecipeReader(self._baseline_recipe).training()

    @cached_property
    def pool(self) -> list[Record]:
        """A sample of the baseline rows, to search for neighbors; empty where they are gone, or streamed."""
        return self._sample(self._baseline_recipe)

    @cached_property
    def training_sample(self) -> list[Record]:
        """The same of the training rows."""
        return self._sample(self.recipe) if self.baseline_sources else self.pool

    def _sample(self, recipe: Recipe) -> list[Record]:
        # A stream would be downloaded once more, whole, to sample from it.
        if any(source.stream for source in recipe.train_sources):
            return []
        # The files may have been removed since training; baselines that need them are then noted.
        with contextlib.suppress(DataError):
            return sample_records(RecipeReader(recipe).training(), MAX_POOL_RECORDS, derive(self.recipe.seed, "pool"))[
                0
            ]
        return []


def with_sources(recipe: Recipe, sources: Sequence[Mapping[str, Any]]) -> Recipe:
    """The same recipe with other training sources, and no validation rows."""
    document = recipe.document()
    # Validation every so many updates needs validation rows, so that section goes as well.
    document["data"] |= {"train": list(sources), "validation": None}
    return Recipe.parse(document | {"evaluate": None}, where="bottega evaluate")


class ReservoirSample:
    """A uniform sample of at most `size` records from a stream (reservoir sampling, algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.count = size, 0
        self._random, self._kept = random.Random(seed), list[tuple[int, Record]]()

    def add(self, record: Record) -> Record | None:
        """Offer a record; returns the record that is not, or no longer, in the sample."""
        self.count += 1
        if self.count <= self.size:
            self._kept.append((self.count, record))
            return None
        index = self._random.randrange(self.count)
        if index >= self.size:
            return record
        (_, replaced), self._kept[index] = self._kept[index], (self.count, record)
        return replaced

    @property
    def records(self) -> list[Record]:
        """The sample, in the order of the stream."""
        return [record for _, record in sorted(self._kept, key=lambda pair: pair[0])]


def sample_records(
    records: Iterable[Record], size: int, seed: int, spares: int = 0
) -> tuple[list[Record], list[Record], int]:
    """(a random sample of the records, in their order; `spares` further ones in random order; how many there were)."""
    # The order of the spares is random, too: the first of the file would else replace every row that is dropped.
    sample, rest = ReservoirSample(size, seed), ReservoirSample(spares, derive(seed, "spares"))
    for record in records:
        # What leaves the first sample is a uniform sample of the rest, so spares cost no second pass.
        left = sample.add(record)
        if left is not None:
            rest.add(left)
    further = rest.records
    return sample.records, random.Random(derive(seed, "spares")).sample(further, len(further)), sample.count
