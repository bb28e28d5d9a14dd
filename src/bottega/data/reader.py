"""Reading sources into records: the only place where reading options, invalid rows and damaged files are handled.

`read_records` yields the records of any sources, `read_rows` their rows before they are parsed, and `RecipeReader` the
records of a recipe, each on its side of the validation split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from bottega.data.sources import open_sources
from bottega.data.split import Side, Split, SplitKeys, is_document
from bottega.errors import DataError
from bottega.recipe.schema import Recipe, Source
from bottega.records import Record
from bottega.records.fields import Fields, RawRow
from bottega.records.parser import parse_rows
from bottega.suggestions import join_names

BadRows = Literal["error", "drop"]

# Reasons that are counted apart. Some quote a value, so a long file of broken rows would otherwise fill the memory.
MAX_REASONS = 1000


@dataclass
class ReadSummary:
    """What reading found out about the rows.

    dropped  invalid rows that were left out: how many for each reason, by side
    formats  the fields of each source and the format they are read as, by path
    """

    dropped: dict[Side, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "validation": Counter()})
    formats: dict[str, str] = field(default_factory=dict)


def read_rows(
    sources: Sequence[Source],
    *,
    siblings: Sequence[Source] = (),
    on_damage: Callable[[DataError], None] | None = None,
) -> Iterator[RawRow]:
    """Yield (location, fields) of every row of the sources; the error of a line that holds no row replaces its fields.

    siblings   other sources of the same run: files that share a name with one of them are shown with their folder
    on_damage  called with the error that ends a source after its first row; by default it is raised
    """
    for _, rows in open_sources(sources, siblings):
        yield from _until_damage(rows, on_damage)


def read_records(
    sources: Sequence[Source],
    record_types: tuple[type, ...],
    *,
    siblings: Sequence[Source] = (),
    bad_rows: BadRows = "error",
    dropped: Counter[str] | None = None,
    formats: dict[str, str] | None = None,
    on_row: Callable[[str], object] | None = None,
    on_bad: Callable[[DataError], None] | None = None,
    on_damage: Callable[[DataError], None] | None = None,
    fix: str = "set data.bad_rows=error to see the first of them",
) -> Iterator[tuple[int, Record]]:
    """Yield (index of the source, record) of every valid row; the reading options of each source apply to its rows.

    record_types  classes of `bottega.records` to read rows as, the preferred one first
    siblings      other sources of the same run: files that share a name with one of them are shown with their folder
    bad_rows      raise the error of an invalid row, or drop the row
    dropped       is filled with the number of dropped rows for each reason
    formats       is filled with the format of each source, by path
    on_row        called with the location of every row, before it is parsed
    on_bad        called with the error of every invalid row and of every line that holds no row; `bad_rows` is ignored
    on_damage     called with the error that ends a source after its first row; by default it is raised
    fix           advice in the DataError that is raised when no row is valid
    """
    dropped, count = Counter() if dropped is None else dropped, 0

    def drop(error: DataError) -> None:
        dropped[error.what if error.what in dropped or len(dropped) < MAX_REASONS else "other reasons"] += 1
        if on_bad is not None:
            on_bad(error)

    for index, rows in open_sources(sources, siblings):
        source = sources[index]
        on_format, on_unread = _format_callbacks(source.path, formats)
        records = parse_rows(
            _until_damage(rows, on_damage, on_row),
            record_types,
            format=source.format,
            mapping=source.mapping,
            text_template=source.text_template,
            on_bad=drop if on_bad is not None or bad_rows == "drop" else None,
            on_broken=drop if on_bad is not None else None,
            on_format=on_format,
            on_unread=on_unread,
        )
        for record in records:
            count += 1
            yield index, record
    if sources and not count:
        raise DataError(
            f"no valid row: {describe_reasons(dropped)}" if dropped else "no rows",
            where=", ".join(source.path for source in sources),
            fix=fix,
        )


def _until_damage(
    rows: Iterator[RawRow],
    on_damage: Callable[[DataError], None] | None,
    on_row: Callable[[str], object] | None = None,
) -> Iterator[RawRow]:
    """The rows of a source up to the error that ends it: a truncated archive, an undecodable byte, broken JSON."""
    empty = True
    try:
        for where, fields in rows:
            empty = False
            if on_row is not None:
                on_row(where)
            yield where, fields
    except DataError as error:
        # A source without a single row is a wrong path or a wrong option, which no caller can go on from.
        if empty or on_damage is None:
            raise
        on_damage(error)


FormatCallbacks = tuple[Callable[[str, Fields], None] | None, Callable[[Sequence[str]], None] | None]


def _format_callbacks(path: str, formats: dict[str, str] | None) -> FormatCallbacks:
    """Functions that describe a source in `formats`: by its format, and then by the fields that are ignored."""
    if formats is None:
        return None, None
    known = ""

    def set_format(name: str, fields: Fields) -> None:
        nonlocal known
        formats[path] = known = f"fields {join_names(fields)}; read as {name}"

    def set_ignored(names: Sequence[str]) -> None:
        formats[path] = f"not read: {join_names(names)}; {known}"

    return set_format, set_ignored


def describe_reasons(reasons: Counter[str]) -> str:
    """The three most frequent reasons with their counts, for a message."""
    return "; ".join(f"{count} rows: {reason}" for reason, count in reasons.most_common(3))


class RecipeReader:
    """The records of a recipe, read again from the files each time they are requested.

    Memory: nothing is kept but eight bytes a row, and those only if a fraction of the rows is held out.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def split(self) -> Split | None:
        """Which rows are held out, found by reading all of them; None if no fraction of them is."""
        fraction, recipe = self.recipe.data.validation, self.recipe
        if not isinstance(fraction, float):
            return None
        records = (record for _, record in self._records("train", ReadSummary()))
        return Split(records, fraction, recipe.split_seed, stratified=recipe.stratified)

    @property
    def divides_whole_records(self) -> bool:
        """Whether a fraction of the rows is held out, and no document is cut for it: it may then be chosen later."""
        if not isinstance(self.recipe.data.validation, float) or "split" in vars(self):
            return False
        first = next(self._records("train", ReadSummary()), None)
        return first is not None and not is_document(first[1])

    def undivided(self, summary: ReadSummary, keys: SplitKeys) -> Iterator[tuple[int, Record]]:
        """Yield (index of the source, record) of every valid row to be divided; `keys` then select what is held out."""
        for source, record in self._records("train", summary):
            keys.add(record)
            yield source, record

    def records(self, summary: ReadSummary | None = None) -> Iterator[tuple[Side, int, Record]]:
        """Yield (side, index of the source, record) of every valid row; `summary` is filled on the way."""
        summary = summary or ReadSummary()
        for number, (source, record) in enumerate(self._records("train", summary)):
            if self.split is None:
                yield "train", source, record
            else:
                yield from ((side, source, part) for side, part in self.split.sides(number, record))
        for source, record in self._records("validation", summary):
            yield "validation", source, record

    def training(self) -> Iterator[Record]:
        """The records trained on."""
        return (record for side, _, record in self.records() if side == "train")

    def _records(self, side: Side, summary: ReadSummary) -> Iterator[tuple[int, Record]]:
        train, validation = self.recipe.train_sources, self.recipe.validation_sources
        sources, siblings = (train, validation) if side == "train" else (validation, train)
        return read_records(
            sources,
            self.recipe.objective.reads,
            siblings=siblings,
            bad_rows=self.recipe.data.bad_rows,
            dropped=summary.dropped[side],
            formats=summary.formats,
        )
