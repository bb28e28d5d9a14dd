"""The dataset of a run: its rows read, split into training and validation, and encoded. No model weights are read.

`build_dataset` is the whole way of a row from its file into the example cache: `RecipeReader` yields records,
`EncodedRows.add` turns each into examples with `Objective.rows`, and counts what is dropped or truncated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from bottega.batch import Example, Row
from bottega.data.example_cache import ExampleCache
from bottega.data.reader import ReadSummary, RecipeReader, describe_reasons
from bottega.data.sampler import Sampler, validation_groups
from bottega.data.split import Side
from bottega.errors import DataError, ModelError
from bottega.models.config import decoder_start_token, is_encoder, load_config, resolve_max_length
from bottega.models.scorer import check_token_ids
from bottega.models.source import adapter_folder, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import Objective
from bottega.recipe.schema import Recipe
from bottega.records import Record, Unusable
from bottega.tokenization import builtin_templates
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec

# A record with its side of the split and the index of its source.
SidedRecord = tuple[Side, int, Record]

# A user is warned first of all if a larger fraction of the rows than this was dropped or truncated.
WARNED_LOSS = 0.2

# Records tokenized at once: this many, or as many as have this many characters.
CHUNK_RECORDS, CHUNK_CHARACTERS = 256, 1 << 20


@dataclass
class EncodedRows:
    """The examples of one side of the split, and counts of the rows behind them.

    rows       rows that were read, including the invalid ones
    dropped    rows that make no example: how many for each reason
    truncated  rows that lost tokens to `max_length`
    """

    examples: ExampleCache
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def add(self, record: Record, objective: Objective, codec: Codec, *, source: int = 0, drop: bool = False) -> None:
        """Encode a record and append its examples.

        source  index of the source the record comes from
        drop    drop a record that the chat template refuses, instead of raising a DataError
        """
        self.rows += 1
        with codec.track_truncation() as truncation:
            examples = self._encode(record, objective, codec, drop=drop)
        # A record that was cut and then dropped counts as both.
        self.truncated += truncation.count
        for index, rows in enumerate(examples):
            name = record.where if len(examples) == 1 else f"{record.where} block {index + 1}"
            self.examples.append(Example(name, rows, objective.metadata(record)), source, continues=index > 0)

    def _encode(self, record: Record, objective: Objective, codec: Codec, *, drop: bool) -> list[tuple[Row, ...]]:
        """The token rows of each example of a record; an empty list, counted in `dropped`, if it makes none."""
        try:
            return objective.rows(record, codec)
        except Unusable as unusable:
            self.dropped[unusable.reason] += 1
        except ChatTemplateError as refused:
            if not drop:
                raise
            self.dropped[refused.what] += 1
        return []

    def refuse_empty(self, where: str) -> None:
        """Raise a DataError with the most frequent causes if no row carries a loss."""
        if not self.examples.labelled:
            reasons = (
                f": {describe_reasons(self.dropped)}" if self.dropped else ": every token to be learned has weight 0"
            )
            long = any("max_length" in reason for reason in self.dropped)
            raise DataError(
                f"no row carries a label, so there is nothing to learn{reasons}",
                where=where,
                fix="raise data.max_length"
                if long
                else "fix the rows or their weights; bottega preview RECIPE shows them",
            )


@dataclass
class Dataset:
    """The rows of a recipe as its model will see them, with the tokenizer and configuration they were encoded for.

    labels    the classes in the order of their ids; empty unless the objective predicts classes
    formats   the fields of each source and the format they are read as, by path
    template  the chat template of the conversations; None if there are none
    """

    tokenizer: Any
    config: Any
    codec: Codec
    labels: list[str]
    train: EncodedRows
    validation: EncodedRows
    formats: dict[str, str]
    template: str | None = None

    def notes(self) -> Iterator[tuple[str, str]]:
        """(subject, message) of what a user should know about the rows, large losses first."""
        for name, side in (("training", self.train), ("validation", self.validation)):
            if side.dropped.total() + side.truncated > WARNED_LOSS * side.rows:
                yield "lost", _describe_loss(name, side)
        if self.template is not None:
            yield "template", f"conversations are written with the chat template: {self.template}"
        yield from self.codec.notes()


def _describe_loss(name: str, side: EncodedRows) -> str:
    """How many rows were dropped or truncated, and why."""
    lost = side.dropped.total() + side.truncated
    reasons = [f"{count} left out, {reason}" for reason, count in side.dropped.most_common(3)]
    reasons += [f"{side.truncated} cut short"] if side.truncated else []
    return f"{lost} of {side.rows} {name} rows ({lost / side.rows:.0%}) are not learned in full: {'; '.join(reasons)}"


def build_dataset(recipe: Recipe, choices: Mapping[str, Any] | None = None, folder: Path | None = None) -> Dataset:
    """Read and encode every row of the recipe; a DataError if nothing would be learned.

    choices  choices of an earlier start of the same run, such as its `max_length`
    folder   folder of the example caches' temporary files; by default the system's folder for them
    """
    tokenizer = load_tokenizer(_tokenizer_source(recipe))
    builtin_templates.set_template(tokenizer, recipe.data.template)
    config = load_config(recipe.model, tokenizer)
    reader, summary = RecipeReader(recipe), ReadSummary()
    # The first pass over the files, and only for objectives with classes: ids are given in the order of frequency.
    labels = recipe.objective.count_labels(reader.training())
    codec = Codec(
        tokenizer,
        max_length=resolve_max_length((choices or {}).get("max_length", recipe.data.max_length), config),
        too_long=recipe.too_long,
        both_ways=is_encoder(config),
        labels=labels,
        decoder_start=decoder_start_token(config),
        day=day_of(choices),
    )
    sides: dict[Side, EncodedRows] = {
        "train": EncodedRows(ExampleCache(folder)),
        "validation": EncodedRows(ExampleCache(folder)),
    }
    drop = recipe.data.bad_rows == "drop"
    for chunk in _tokenize_ahead(reader.records(summary), codec):
        for side, source, record in chunk:
            sides[side].add(record, recipe.objective, codec, source=source, drop=drop)
    for side, rows in sides.items():
        rows.examples.seal()
        # Rows that could not be parsed never reached `add`.
        rows.rows += summary.dropped[side].total()
        rows.dropped += summary.dropped[side]
        if side == "train" or recipe.data.validation is not None:
            sources = recipe.validation_sources if side == "validation" else recipe.train_sources
            rows.refuse_empty(", ".join(source.path for source in sources or recipe.train_sources))
        check_token_ids(config, rows.examples.most, recipe.model.base or "model.shape")
    train, validation = sides["train"], sides["validation"]
    _refuse_without_contrast(recipe, codec, train.examples, validation.examples)
    template = (recipe.data.template or codec.template.name) if codec.template.used else None
    return Dataset(tokenizer, config, codec, list(labels), train, validation, summary.formats, template)


def day_of(choices: Mapping[str, Any] | None) -> date | None:
    """The date that a run's chat template is given as today; None for runs that have not started."""
    day = (choices or {}).get("day")
    return date.fromisoformat(day) if day else None


def _refuse_without_contrast(recipe: Recipe, codec: Codec, train: ExampleCache, validation: ExampleCache) -> None:
    """Raise a DataError if the objective compares examples with each other and no update has any that differ."""
    if recipe.objective.joint:
        next(Sampler(train, recipe, codec).updates())
        if recipe.evaluate is not None:
            validation_groups(validation, recipe)


def _tokenize_ahead(records: Iterator[SidedRecord], codec: Codec) -> Iterator[list[SidedRecord]]:
    """Yield the records in chunks; while the caller encodes a chunk, a thread tokenizes the next."""
    with ThreadPoolExecutor(1) as thread:
        tokenized = (
            (chunk, failure, thread.submit(codec.encode_ahead, [record for _, _, record in chunk]))
            for chunk, failure in _chunks(records)
        )
        # `pairwise` asks for the next chunk, which submits it, before it hands over this one.
        for current, _ in pairwise(chain(tokenized, [None])):
            assert current is not None
            chunk, failure, encodings = current
            with codec.precomputed(encodings.result()):
                yield chunk
            if failure is not None:
                raise failure


def _chunks(records: Iterator[SidedRecord]) -> Iterator[tuple[list[SidedRecord], DataError | None]]:
    """Yield (records, error that took the place of the next one); an error ends the chunks."""
    chunk, size, failure = list[SidedRecord](), 0, None
    try:
        for record in records:
            chunk.append(record)
            size += sum(len(text) for text, _ in record[2].texts_to_encode())
            if len(chunk) == CHUNK_RECORDS or size >= CHUNK_CHARACTERS:
                yield chunk, None
                chunk, size = [], 0
    except DataError as error:
        # Kept until the rows before it are encoded: an error in one of those comes first, as in the file.
        failure = error
    if chunk or failure:
        yield chunk, failure


def _tokenizer_source(recipe: Recipe) -> str:
    """Where the tokenizer is read from: the one configured, else that of the continued adapter, else the base's."""
    if recipe.model.tokenizer is not None:
        return recipe.model.tokenizer
    source = locate(recipe.model.base or "")
    if recipe.adapter is not None and recipe.adapter.start is not None and source.adapter is not None:
        raise ModelError(
            "a run that ended in an adapter cannot be the base of another adapter that is continued",
            where=str(recipe.model.base),
            fix="leave model.base out: adapter.from knows its own",
        )
    if recipe.adapter is not None and recipe.adapter.start is not None:
        folder = adapter_folder(recipe.adapter.start)
        return str(folder) if (folder / "tokenizer.json").exists() else source.tokenizer
    return source.tokenizer
