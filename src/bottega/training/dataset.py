"""The rows of a recipe as its model will see them, and the files a run depends on; no model weights are read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from bottega.data.encode import EncodedRows
from bottega.data.example_cache import ExampleCache
from bottega.data.reader import ReadSummary, RecipeReader
from bottega.data.sampler import Sampler, validation_groups
from bottega.data.split import Side
from bottega.errors import DataError, ModelError
from bottega.models.config import decoder_start_token, is_encoder, load_config, resolve_max_length
from bottega.models.scorer import check_token_ids
from bottega.models.source import adapter_folder, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Recipe
from bottega.records import Record
from bottega.tokenization import builtin_templates
from bottega.tokenization.codec import Codec

# A record with its side and the number of its source.
Sided = tuple[Side, int, Record]

# Share of the rows from which on it is said first that they were dropped or cut.
LOUD = 0.2

# Records encoded at once: so many, or as many as hold so many characters.
PART, PART_CHARACTERS = 256, 1 << 20


@dataclass
class Dataset:
    """The rows of a recipe as its model will see them; needs no model weights."""

    tokenizer: Any
    config: Any
    codec: Codec
    labels: list[str]
    train: EncodedRows
    validation: EncodedRows
    formats: dict[str, str]
    template: str | None = None

    def notes(self) -> Iterator[tuple[str, str]]:
        """(subject, message) of what a user should know of the rows, what is lost of them first."""
        for name, side in (("training", self.train), ("validation", self.validation)):
            if side.dropped.total() + side.truncated > LOUD * side.rows:
                yield "lost", _lost(name, side)
        if self.template is not None:
            yield "template", f"conversations are written with the chat template: {self.template}"
        yield from self.codec.notes()


def _lost(name: str, side: EncodedRows) -> str:
    """How many rows are not as they were written, and why."""
    lost = side.dropped.total() + side.truncated
    reasons = [f"{count} left out, {reason}" for reason, count in side.dropped.most_common(3)]
    reasons += [f"{side.truncated} cut short"] if side.truncated else []
    what = f"{lost} of {side.rows} {name} rows ({lost / side.rows:.0%}) are not learned as they stand"
    return f"{what}: {'; '.join(reasons)}"


def build_dataset(recipe: Recipe, choices: Mapping[str, Any] | None = None, folder: Path | None = None) -> Dataset:
    """Read and encode every row of the recipe; raises where nothing would be learned.

    choices  those of an earlier start of the same run
    folder   where the encoded rows are kept, out of sight, for as long as they are needed
    """
    tokenizer = load_tokenizer(_tokenizer_source(recipe))
    builtin_templates.set_template(tokenizer, recipe.data.template)
    config = load_config(recipe.model, tokenizer)
    length = resolve_max_length((choices or {}).get("max_length", recipe.data.max_length), config)
    reader, told = RecipeReader(recipe), ReadSummary()
    counts = recipe.objective.count_labels(reader.training())
    codec = Codec(
        tokenizer,
        max_length=length,
        too_long=recipe.too_long,
        both_ways=is_encoder(config),
        labels=counts,
        decoder_start=decoder_start_token(config),
        day=day_of(choices),
    )
    encoded: dict[Side, EncodedRows] = {
        "train": EncodedRows(ExampleCache(folder)),
        "validation": EncodedRows(ExampleCache(folder)),
    }
    for part in _looked_ahead(reader.records(told), codec):
        for side, source, record in part:
            drop = recipe.data.bad_rows == "drop"
            encoded[side].add(record, recipe.objective, codec, source=source, drop=drop)
    for side, rows in encoded.items():
        rows.examples.seal()
        rows.rows += told.dropped[side].total()
        rows.dropped += told.dropped[side]
        if side == "train" or recipe.data.validation is not None:
            named = recipe.validation_sources if side == "validation" else recipe.train_sources
            rows.refuse_empty(", ".join(source.path for source in named or recipe.train_sources))
        check_token_ids(config, rows.examples.most, recipe.model.base or "model.shape")
    _refuse_what_teaches_nothing(recipe, codec, encoded["train"].examples, encoded["validation"].examples)
    written = (recipe.data.template or codec.template.name) if codec.template.used else None
    train, validation = encoded["train"], encoded["validation"]
    return Dataset(tokenizer, config, codec, list(counts), train, validation, told.formats, written)


def day_of(choices: Mapping[str, Any] | None) -> date | None:
    """The day that a run's chat template was told is today; None for runs that have not begun."""
    day = (choices or {}).get("day")
    return date.fromisoformat(day) if day else None


def _refuse_what_teaches_nothing(recipe: Recipe, codec: Codec, train: ExampleCache, validation: ExampleCache) -> None:
    """A DataError where examples are compared with each other, and those of no update can be told apart."""
    if recipe.objective.joint:
        next(Sampler(train, recipe, codec).updates())
        if recipe.evaluate is not None:
            validation_groups(validation, recipe)


def _looked_ahead(records: Iterator[Sided], codec: Codec) -> Iterator[list[Sided]]:
    """The records in parts; while one is made into rows, the tokenizer is at work on the next in a thread."""
    with ThreadPoolExecutor(1) as thread:
        looking = (
            (part, failure, thread.submit(codec.encode_ahead, [record for _, _, record in part]))
            for part, failure in _parts(records)
        )
        # Each has its turn when the next has been handed over.
        for one, _ in pairwise(chain(looking, [None])):
            assert one is not None
            part, failure, encodings = one
            with codec.precomputed(encodings.result()):
                yield part
            if failure is not None:
                raise failure


def _parts(records: Iterator[Sided]) -> Iterator[tuple[list[Sided], DataError | None]]:
    """(some records, what came instead of the next one)."""
    part, size, failure = list[Sided](), 0, None
    try:
        for record in records:
            part.append(record)
            size += sum(len(text) for text, _ in record[2].texts_to_encode())
            if len(part) == PART or size >= PART_CHARACTERS:
                yield part, None
                part, size = [], 0
    except DataError as error:
        failure = error
    if part or failure:
        yield part, failure


def _tokenizer_source(recipe: Recipe) -> str:
    """The tokenizer named, or that of what is continued, or the base's."""
    if recipe.model.tokenizer is not None:
        return recipe.model.tokenizer
    source = locate(recipe.model.base or "")
    if recipe.adapter is not None and recipe.adapter.start is not None and source.adapter is not None:
        what = "a run that ended in an adapter is no base for another that is gone on with"
        raise ModelError(what, where=str(recipe.model.base), fix="leave model.base out: adapter.from knows its own")
    if recipe.adapter is not None and recipe.adapter.start is not None:
        folder = adapter_folder(recipe.adapter.start)
        return str(folder) if (folder / "tokenizer.json").exists() else source.tokenizer
    return source.tokenizer
