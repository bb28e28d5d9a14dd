"""What an audit reads: the data, and what it is compared with; a row that cannot be read is a finding, not the end."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bottega.auditing.checks import Context
from bottega.auditing.entries import READS, Entry, Places, entry
from bottega.auditing.findings import Finding
from bottega.data import sources
from bottega.data.files import COMPRESSED, suffix
from bottega.data.formats import records
from bottega.data.split import Split
from bottega.errors import DataError, RecipeError
from bottega.recipe.files import resolve_source_path
from bottega.recipe.schema import Layout, Recipe, Source
from bottega.suggestions import describe_errors

REASONS = 50
"""Most different faults that are told apart."""

LINES = (".jsonl", ".ndjson", ".csv", ".tsv")
"""Files of about a row a line, whose rows can be counted beforehand."""


@dataclass(frozen=True)
class Rows:
    """Some sources read as one.

    others  sources read beside them, so that files of one name are told apart
    reads   kinds of record they may be
    wants   which of the sound records, by number; None for all
    """

    name: str
    sources: Sequence[Source]
    others: Sequence[Source]
    reads: tuple[type, ...] = READS
    wants: Callable[[int], bool] | None = None

    def entries(self, places: Places, refused: Refused | None = None) -> Iterator[Entry]:
        """Every sound row; the others go to `refused`. A DataError where a source holds no row at all."""
        refused, sound = refused or Refused(), 0
        for number, rows in sources.rows(self.sources, self.others):
            source, before = self.sources[number], len(places)

            def note(error: DataError) -> None:
                refused.add(len(places) - 1, error)

            found = records(
                places.counted(rows),
                self.reads,
                format=source.format,
                mapping=source.mapping,
                text_template=source.text_template,
                on_bad=note,
                on_broken=note,
            )
            try:
                for record in found:
                    if self.wants is None or self.wants(sound):
                        yield entry(len(places) - 1, record)
                    sound += 1
            except DataError as error:
                if len(places) == before:
                    raise
                refused.damaged.append(error)
        if not sound:
            raise DataError(
                f"every row is unsound: {refused.first}",
                where=", ".join(source.path for source in self.sources),
                fix="is it the right format? say so with --format and --map",
            )


class Refused:
    """Rows that are none, by what is wrong with them; and where a file could be read no further."""

    def __init__(self) -> None:
        self.rows: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self.fixes: dict[str, str] = {}
        self.damaged: list[DataError] = []
        self.first = ""

    def add(self, number: int, error: DataError) -> None:
        what = error.what if error.what in self.rows or len(self.rows) < REASONS else "other faults"
        self.rows[what].append(number)
        self.fixes.setdefault(what, error.fix or "mend or remove the row")
        self.first = self.first or error.what

    def findings(self, context: Context) -> Iterator[Finding]:
        for error in self.damaged:
            what = f"{error.what}: nothing behind it was read"
            yield Finding("damaged file", "error", what, error.fix or "restore it", 1, [error.where or ""])
        for what, rows in sorted(self.rows.items(), key=lambda pair: -len(pair[1])):
            yield context.finding("unsound", "error", f"no sound row: {what}", self.fixes[what], rows, mend="remove")


def named(
    data: Recipe | Sequence[str], against: Sequence[str], format: str, mapping: Mapping[str, str], layout: Layout
) -> tuple[Rows, list[Rows]]:
    """(the data, what it is compared with): of a recipe also the rows it validates on."""
    known = [] if isinstance(data, Recipe) else data
    listed = {path: _source(path, format, mapping, layout.for_file(path, known)) for path in against}
    if not isinstance(data, Recipe):
        own = [_source(path, format, mapping, layout) for path in data]
        return Rows("rows", own, [*listed.values()]), [Rows(name, [source], own) for name, source in listed.items()]
    reads, train, validation = data.objective.reads, data.train_sources, data.validation_sources
    beside = [*validation, *listed.values()]
    own_rows = Rows("train", train, beside, reads)
    others = [Rows(name, [source], [*train, *validation]) for name, source in listed.items()]
    if validation:
        others.insert(0, Rows("validation", validation, train, reads))
    held = _held(own_rows, data)
    if held is not None:
        own_rows = Rows("train", train, beside, reads, lambda number: not bool(held[number]))
        others.insert(0, Rows("the validation rows", train, beside, reads, lambda number: bool(held[number])))
    return own_rows, others


def _held(rows: Rows, recipe: Recipe) -> NDArray[np.bool_] | None:
    """Which sound records a recipe holds out, where it holds out a part of its rows."""
    fraction = recipe.data.validation
    if not isinstance(fraction, float):
        return None
    found = (one.record for one in rows.entries(Places()))
    # Of a few long documents the end is held out: there are no rows to compare.
    return Split(found, fraction, recipe.seed, stratified=recipe.stratified).held


def _source(path: str, format: str, mapping: Mapping[str, str], layout: Layout) -> Source:
    read = {"format": format, "mapping": dict(mapping), **layout.model_dump()}
    try:
        return Source.model_validate({"path": resolve_source_path(path), **read})
    except ValidationError as error:
        problems = error.errors()
        what, fix = describe_errors(problems[:1])
        where = f"--{problems[0]['loc'][0]}"
        raise RecipeError(what, where=where, fix=fix or "see bottega audit --help") from None


def expected(sets: Sequence[Rows]) -> int | None:
    """About how many rows there are, by the lines of files; None where that says nothing."""
    files = [file for rows in sets for source in rows.sources for file in sources.files(source) or [Path()]]
    if not all(suffix(file) in LINES and file.suffix not in COMPRESSED and file.is_file() for file in files):
        return None
    return sum(_lines(file) for file in files)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
