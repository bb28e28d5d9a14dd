"""Recipe → records: every row of its sources, with its side and source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bottega.data import sources as data_sources
from bottega.data.encode import counted_reasons
from bottega.data.fields import Fields
from bottega.data.formats import records
from bottega.data.split import Side, Split
from bottega.errors import DataError
from bottega.recipe.schema import Recipe, Source
from bottega.records import Record
from bottega.suggestions import join_names


class Reader:
    """The records of a recipe, each with its side and the number of its source; read again whenever asked.

    A DataError names file, line, field and remedy. Nothing is kept but eight bytes a row, where a fraction of the
    rows is held out.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        fraction = recipe.data.validation
        records = (record for _, record in self._stream(recipe.train_sources, recipe.validation_sources))
        self.split = (
            Split(records, fraction, recipe.split_seed, stratified=recipe.stratified)
            if isinstance(fraction, float)
            else None
        )

    def records(self, told: Told | None = None) -> Iterator[tuple[Side, int, Record]]:
        """(side, source, record) of every sound row; `told` hears of the unsound, and of the formats."""
        recipe, told = self.recipe, told or Told()
        train, validation = recipe.train_sources, recipe.validation_sources
        for number, (source, record) in enumerate(self._stream(train, validation, told.dropped["train"], told.formats)):
            if self.split is None:
                yield "train", source, record
            else:
                yield from ((side, source, part) for side, part in self.split.sides(number, record))
        for source, record in self._stream(validation, train, told.dropped["validation"], told.formats):
            yield "validation", source, record

    def training(self) -> Iterator[Record]:
        """The records trained on."""
        return (record for side, _, record in self.records() if side == "train")

    def _stream(
        self,
        sources: Sequence[Source],
        others: Sequence[Source],
        dropped: Counter[str] | None = None,
        formats: dict[str, str] | None = None,
    ) -> Iterator[tuple[int, Record]]:
        dropped, formats = Counter() if dropped is None else dropped, {} if formats is None else formats
        sound, read_as = 0, dict[str, str]()

        def drop(error: DataError) -> None:
            dropped[error.what] += 1

        for number, rows in data_sources.rows(sources, others):
            source = sources[number]

            def tell(name: str, fields: Fields, path: str = source.path) -> None:
                read_as[path] = formats[path] = f"fields {join_names(fields)}; read as {name}"

            def tell_unread(names: Sequence[str], path: str = source.path) -> None:
                formats[path] = f"not read: {join_names(names)}; {read_as[path]}"

            for record in records(
                rows,
                self.recipe.objective.reads,
                format=source.format,
                mapping=source.mapping,
                text_template=source.text_template,
                on_bad=drop if self.recipe.data.bad_rows == "drop" else None,
                on_format=tell,
                on_unread=tell_unread,
            ):
                sound += 1
                yield number, record
        if sources and not sound:
            raise DataError(
                f"every row is unsound: {counted_reasons(dropped)}",
                where=", ".join(source.path for source in sources),
                fix="see the first of them with data.bad_rows=error",
            )


@dataclass
class Told:
    """What reading the rows brought to light: how many were unsound, by side and reason; each source's format."""

    dropped: dict[Side, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "validation": Counter()})
    formats: dict[str, str] = field(default_factory=dict)
