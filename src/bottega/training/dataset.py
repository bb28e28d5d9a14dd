"""The dataset of a run: its rows read, split into training and validation, and encoded. No model weights are read.

`build_dataset` is the whole way of a row from its file into the example cache: `RecipeReader` yields records,
`encoding` turns each into examples, and `EncodedRows` keeps them and counts what is dropped or truncated.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega import adapters
from bottega.data.example_cache import ExampleCache
from bottega.data.reader import ReadSummary, RecipeReader, describe_reasons
from bottega.data.sampler import Sampler, validation_groups
from bottega.data.split import Side, SplitKeys
from bottega.errors import DataError, ModelError
from bottega.hardware import memory
from bottega.models.config import decoder_start_token, is_encoder, load_config, resolve_max_length
from bottega.models.scorer import check_token_ids
from bottega.models.source import adapter_folder, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Recipe
from bottega.tokenization import builtin_templates
from bottega.tokenization.codec import Codec
from bottega.training.encoding import ChunkEncoder, EncodedRecord, SidedRecord, count_workers, encode_all

# A user is warned first of all if a larger fraction of the rows than this was dropped or truncated.
WARNED_LOSS = 0.2


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

    def add(self, record: EncodedRecord, source: int = 0) -> None:
        """Append the examples of a record, which comes from the source with this index."""
        self.rows += 1
        # A record that was cut and then dropped counts as both.
        self.truncated += record.truncated
        if record.dropped is not None:
            self.dropped[record.dropped] += 1
        for index, example in enumerate(record.examples):
            self.examples.append(example, source, continues=index > 0)

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


class UndividedRows:
    """Encoded rows of which it is not known yet on which side of the split they are.

    examples  of all rows
    """

    def __init__(self, examples: ExampleCache) -> None:
        self.examples, self._rows = examples, 0
        self._truncated, self._without_examples = array("q"), array("q")  # rows
        self._dropped: dict[str, array[int]] = {}  # rows by reason

    def add(self, record: EncodedRecord, source: int) -> None:
        """Append the examples of the next row."""
        if record.truncated:
            self._truncated.extend([self._rows] * record.truncated)
        if record.dropped is not None:
            self._dropped.setdefault(record.dropped, array("q")).append(self._rows)
        for index, example in enumerate(record.examples):
            self.examples.append(example, source, continues=index > 0)
        if not record.examples:
            self._without_examples.append(self._rows)
        self._rows += 1

    def side(self, mine: NDArray[np.bool_]) -> EncodedRows:
        """The rows that are on one side, given by a flag for each row."""
        rows_by_reason = {
            reason: rows[mine[rows]]
            for reason, rows in ((key, np.asarray(rows)) for key, rows in self._dropped.items())
        }
        # In the order in which a side alone would have come upon them.
        found = sorted((int(rows[0]), reason, len(rows)) for reason, rows in rows_by_reason.items() if len(rows))
        return EncodedRows(
            self.examples.part(np.delete(mine, np.asarray(self._without_examples))),
            int(mine.sum()),
            Counter({reason: count for _, reason, count in found}),
            int(mine[np.asarray(self._truncated)].sum()),
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
        max_length=resolve_max_length(
            (choices or {}).get("max_length", recipe.data.max_length), config, _virtual_tokens(recipe)
        ),
        too_long=recipe.too_long,
        both_ways=is_encoder(config),
        labels=labels,
        decoder_start=decoder_start_token(config),
        day=day_of(choices),
    )
    sides = _encode(recipe, reader, summary, codec, folder)
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
    template = (recipe.data.template or codec.template.name) if codec.tally.templated else None
    return Dataset(tokenizer, config, codec, list(labels), train, validation, summary.formats, template)


def _virtual_tokens(recipe: Recipe) -> int:
    """How many positions of the model the adapter takes before every text."""
    adapter = recipe.adapter
    if adapter is None or adapter.start is None:
        return 0 if adapter is None else adapter.virtual_tokens
    saved = adapters.read_saved(adapter_folder(adapter.start))
    return 0 if saved.kind is None else adapters.load(saved.kind).model_validate(saved.settings).virtual_tokens


def _encode(
    recipe: Recipe, reader: RecipeReader, summary: ReadSummary, codec: Codec, folder: Path | None
) -> dict[Side, EncodedRows]:
    """The encoded rows of each side."""
    encode = ChunkEncoder(lambda _: recipe.objective, codec, drop=recipe.data.bad_rows == "drop")
    processes, fraction = count_workers(recipe.devices.threads), recipe.data.validation
    if reader.divides_whole_records and isinstance(fraction, float):
        # What is held out is known when all rows are read: encoded before that, they are read once.
        keys, undivided = SplitKeys(stratified=recipe.stratified), UndividedRows(ExampleCache(folder))
        records: Iterator[SidedRecord] = (("train", *pair) for pair in reader.undivided(summary, keys))
        for _, source, encoded in encode_all(records, encode, processes):
            undivided.add(encoded, source)
        held = keys.select(fraction, recipe.split_seed)
        del keys
        memory.return_freed()
        return {"train": undivided.side(~held), "validation": undivided.side(held)}
    sides: dict[Side, EncodedRows] = {
        "train": EncodedRows(ExampleCache(folder)),
        "validation": EncodedRows(ExampleCache(folder)),
    }
    for side, source, encoded in encode_all(reader.records(summary), encode, processes):
        sides[side].add(encoded, source)
    return sides


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
