"""The rows of a recipe as its model will see them, and the files a run depends on; no model weights are read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from bottega.data import builtin, sources
from bottega.data.codec import Codec, texts
from bottega.data.shelf import Shelf
from bottega.data.split import Side
from bottega.errors import DataError, ModelError, RunError
from bottega.feed import Encoded, Feed, Reader, Told, judged
from bottega.models.load import (
    adapter_folder,
    is_encoder,
    load_config,
    load_tokenizer,
    locate,
    max_length,
    start_token,
)
from bottega.models.scorer import refuse_unknown_tokens
from bottega.objectives import OnPolicy
from bottega.recipe import Recipe
from bottega.records import Record
from bottega.rewards.model import Model
from bottega.runs import checksum

Sided = tuple[Side, int, Record]
"""A record with its side and the number of its source."""

LOUD = 0.2
"""Share of the rows from which on it is said first that they were dropped or cut."""

PART, PART_CHARACTERS = 256, 1 << 20
"""Records encoded at once: so many, or as many as hold so many characters."""


@dataclass
class Rows:
    """The rows of a recipe as its model will see them; needs no model weights."""

    tokenizer: Any
    config: Any
    codec: Codec
    labels: list[str]
    train: Encoded
    validation: Encoded
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


def _lost(name: str, side: Encoded) -> str:
    """How many rows are not as they were written, and why."""
    lost = side.dropped.total() + side.truncated
    reasons = [f"{count} left out, {reason}" for reason, count in side.dropped.most_common(3)]
    reasons += [f"{side.truncated} cut short"] if side.truncated else []
    what = f"{lost} of {side.rows} {name} rows ({lost / side.rows:.0%}) are not learned as they stand"
    return f"{what}: {'; '.join(reasons)}"


def prepare(recipe: Recipe, choices: Mapping[str, Any] | None = None, folder: Path | None = None) -> Rows:
    """Read and encode every row of the recipe; raises where nothing would be learned.

    choices  those of an earlier start of the same run
    folder   where the encoded rows are kept, out of sight, for as long as they are needed
    """
    tokenizer = load_tokenizer(_tokenizer_source(recipe))
    builtin.adopt(tokenizer, recipe.data.template)
    config = load_config(recipe.model, tokenizer)
    length = max_length((choices or {}).get("max_length", recipe.data.max_length), config)
    reader, told = Reader(recipe), Told()
    counts = recipe.objective.labels(reader.training())
    codec = Codec(
        tokenizer,
        max_length=length,
        too_long=recipe.too_long,
        both_ways=is_encoder(config),
        labels=counts,
        start=start_token(config),
        day=day_of(choices),
    )
    encoded: dict[Side, Encoded] = {"train": Encoded(Shelf(folder)), "validation": Encoded(Shelf(folder))}
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
        refuse_unknown_tokens(config, rows.examples.most, recipe.model.base or "model.shape")
    _refuse_what_teaches_nothing(recipe, codec, encoded["train"].examples, encoded["validation"].examples)
    written = (recipe.data.template or codec.template.name) if codec.template.used else None
    train, validation = encoded["train"], encoded["validation"]
    return Rows(tokenizer, config, codec, list(counts), train, validation, told.formats, written)


def day_of(choices: Mapping[str, Any] | None) -> date | None:
    """The day that a run's chat template was told is today; None for runs that have not begun."""
    day = (choices or {}).get("day")
    return date.fromisoformat(day) if day else None


def _refuse_what_teaches_nothing(recipe: Recipe, codec: Codec, train: Shelf, validation: Shelf) -> None:
    """A DataError where examples are compared with each other, and those of no update can be told apart."""
    if recipe.objective.joint:
        next(Feed(train, recipe, codec).updates())
        if recipe.evaluate is not None:
            judged(validation, recipe)


def _looked_ahead(records: Iterator[Sided], codec: Codec) -> Iterator[list[Sided]]:
    """The records in parts; while one is made into rows, the tokenizer is at work on the next in a thread."""
    with ThreadPoolExecutor(1) as thread:
        looking = (
            (part, failure, thread.submit(codec.look_ahead, [record for _, _, record in part]))
            for part, failure in _parts(records)
        )
        # Each has its turn when the next has been handed over.
        for one, _ in pairwise(chain(looking, [None])):
            assert one is not None
            part, failure, known = one
            codec.known = known.result()
            yield part
            codec.known = {}
            if failure is not None:
                raise failure


def _parts(records: Iterator[Sided]) -> Iterator[tuple[list[Sided], DataError | None]]:
    """(some records, what came instead of the next one)."""
    part, size, failure = list[Sided](), 0, None
    try:
        for record in records:
            part.append(record)
            size += sum(len(text) for text, _ in texts(record[2]))
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


def tokenizer_differs(recipe: Recipe, tokenizer: Any) -> list[str]:
    """What a run's own tokenizer has other than its base's: a model reads tokens and turns as it learned them."""
    if recipe.model.base is None or recipe.model.tokenizer is None:
        return []
    try:
        base = load_tokenizer(locate(recipe.model.base).tokenizer)
    except ModelError:  # a base without one
        return []
    differs = []
    if base.get_vocab() != tokenizer.get_vocab():
        differs.append("its vocabulary is another, so the base reads other tokens than it learned")
    if base.chat_template != tokenizer.chat_template:
        differs.append("its chat template is another, so the base sees turns written otherwise than it learned")
    return differs


def files_of(recipe: Recipe) -> list[Path]:
    """Every file whose change would make a resume another run: rows, base weights, a continued adapter, own code."""
    rewards = recipe.objective.rewards if isinstance(recipe.objective, OnPolicy) else []
    judges = [one.model for one in rewards if isinstance(one, Model)]
    named = [locate(name) for name in (recipe.model.base, recipe.model.reference, *judges) if name]
    folders = [str(folder) for one in named for folder in (one.base, one.adapter) if folder]
    folders += [str(adapter_folder(recipe.adapter.start))] if recipe.adapter and recipe.adapter.start else []
    folders += [recipe.model.tokenizer] if recipe.model.tokenizer else []
    names = ("config.json", "adapter_config.json", "tokenizer*.json", "chat_template.jinja", "*.safetensors")
    weights = [path for folder in folders for name in names for path in sorted(Path(folder).glob(name))]
    rows = [
        path
        for source in (*recipe.train_sources, *recipe.validation_sources, *recipe.guard_sources)
        for path in sources.files(source)
    ]
    own = builtin.files(recipe.data.template)
    own += [Path(file) for one in (recipe.objective, *rewards) if (file := getattr(one, "file", None))]
    return [*rows, *weights, *own]


def check_unchanged(recipe: Recipe, place: dict[str, Any] | None) -> None:
    """A RunError where a file is not as it was when the run began."""
    for path in files_of(recipe) if place else []:
        known = (place or {})["files"].get(str(path))
        if path.exists() and known != checksum(path):
            raise RunError(
                "this file has changed since the run began",
                where=str(path),
                fix="put the old file back, or start a new run with the new one",
            )
