"""Recipe → records → examples → the updates of a run, in an order that only the seed decides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from bottega.batch import Example
from bottega.data.codec import Codec, TemplateRefused, Unusable
from bottega.data.formats import records
from bottega.data.sources import read_all
from bottega.data.split import split
from bottega.errors import DataError
from bottega.objectives import Objective
from bottega.randomness import derive
from bottega.recipe import Recipe
from bottega.records import Record

DEFAULT_EXAMPLES = 16


@dataclass
class Records:
    """What the files of a recipe hold, on either side of the split; `dropped` counts unsound rows by reason."""

    train: list[Record]
    validation: list[Record]
    dropped: Counter[str]
    validation_dropped: Counter[str]


@dataclass
class Encoded:
    """Examples, and what became of the rows that are none: `rows` sound ones were encoded, `unsound` never were."""

    examples: list[Example] = field(default_factory=list)
    rows: int = 0
    unsound: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    @property
    def tokens(self) -> int:
        return sum(example.tokens for example in self.examples)

    @property
    def labelled_tokens(self) -> int:
        return sum(row.labelled for example in self.examples for row in example.rows)


def read_records(recipe: Recipe) -> Records:
    """Every row of the recipe's files; a DataError names file, line, field and remedy."""
    train, dropped = _read(recipe, recipe.train_files, recipe.validation_files)
    if isinstance(recipe.data.validation, float):
        return Records(*split(train, recipe.data.validation, recipe.seed), dropped, Counter())
    if recipe.data.validation is None:
        return Records(train, [], dropped, Counter())
    validation, validation_dropped = _read(recipe, recipe.validation_files, recipe.train_files)
    return Records(train, validation, dropped, validation_dropped)


def _read(recipe: Recipe, files: Sequence[Path], others: Sequence[Path]) -> tuple[list[Record], Counter[str]]:
    """The sound rows of the files, and the reasons the others are left out."""
    dropped: Counter[str] = Counter()

    def drop(error: DataError) -> None:
        dropped[error.what] += 1

    rows = records(
        read_all(files, others),
        recipe.objective.reads,
        format=recipe.data.format,
        mapping=recipe.data.mapping,
        text_template=recipe.data.text_template,
        on_bad=drop if recipe.data.bad_rows == "drop" else None,
    )
    sound = list(rows)
    if not sound:
        raise DataError(
            f"every row is unsound: {_counted(dropped)}",
            where=", ".join(map(str, files)),
            fix="see the first of them with data.bad_rows=error",
        )
    return sound, dropped


def encode(rows: Sequence[Record], objective: Objective, codec: Codec, *, drop: bool = False) -> Encoded:
    """The examples of the records, in order; `drop` leaves out those a chat template refuses."""
    out = Encoded(rows=len(rows))
    before = codec.truncated
    for record in rows:
        try:
            examples = objective.rows(record, codec)
        except Unusable as unusable:
            out.dropped[unusable.reason] += 1
            continue
        except TemplateRefused as refused:
            if not drop:
                raise
            out.dropped[refused.what] += 1
            continue
        for index, example in enumerate(examples):
            name = record.where if len(examples) == 1 else f"{record.where} block {index + 1}"
            out.examples.append(Example(name, example))
    out.truncated = codec.truncated - before
    return out


def refuse_empty(encoded: Encoded, where: str) -> None:
    """A DataError with the true cause when no row would carry a loss."""
    if not encoded.labelled_tokens:
        raise DataError(
            f"no row carries a label, so there is nothing to learn: {_counted(encoded.dropped)}",
            where=where,
            fix="raise data.max_length if rows are too long; else look at them with: bottega preview",
        )


def _counted(dropped: Counter[str]) -> str:
    return "; ".join(f"{count} rows: {reason}" for reason, count in dropped.most_common(3))


@dataclass(frozen=True)
class Update:
    """The examples of one update, and where in the endless stream of examples the next begins."""

    step: int
    examples: list[Example]
    position: int


class Feed:
    """The updates of a run: shuffles of the examples, one after the other without end, cut into updates.

    No example is left out at the end of an epoch: the update that reaches it goes on into the next shuffle.
    """

    def __init__(self, examples: Sequence[Example], recipe: Recipe) -> None:
        self.examples, self.seed = examples, recipe.seed
        self.update_tokens = recipe.optim.update_tokens
        self.update_examples = recipe.optim.examples or DEFAULT_EXAMPLES
        self.steps = recipe.optim.steps or self._steps(recipe.optim.epochs or 1.0)

    def _steps(self, epochs: float) -> int:
        """Updates until every example has been taken `epochs` times."""
        wanted = math.ceil(epochs * len(self.examples) - 1e-9)
        if self.update_tokens is None:
            return math.ceil(wanted / self.update_examples)
        stream, position, steps = self._stream(0), 0, 0
        while position < wanted:
            position, steps = position + len(self._take(stream)), steps + 1
        return steps

    def updates(self, step: int = 0, position: int = 0) -> Iterator[Update]:
        """The updates after `step`, whose last example stood before `position`."""
        stream = self._stream(position)
        for number in range(step + 1, self.steps + 1):
            examples = self._take(stream)
            position += len(examples)
            yield Update(number, examples, position)

    def _take(self, stream: Iterator[Example]) -> list[Example]:
        """The next update's examples: so many, or as many as reach so many tokens."""
        if self.update_tokens is None:
            return list(islice(stream, self.update_examples))
        examples, tokens = list[Example](), 0
        while tokens < self.update_tokens:
            examples.append(next(stream))
            tokens += examples[-1].tokens
        return examples

    def _stream(self, position: int) -> Iterator[Example]:
        epoch, place = divmod(position, len(self.examples))
        while True:
            order = np.random.default_rng(derive(self.seed, "shuffle", epoch)).permutation(len(self.examples))
            for index in order[place:]:
                yield self.examples[index]
            epoch, place = epoch + 1, 0
