"""Reads what an audit looks at: the data, and the comparison sets. A row that cannot be read becomes a finding."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bottega.auditing.checks import Context
from bottega.auditing.entries import Entry, RowLocations, create_entry
from bottega.auditing.findings import Finding
from bottega.data import sources
from bottega.data.files import COMPRESSED, suffix
from bottega.data.reader import read_records
from bottega.data.split import Split
from bottega.errors import DataError, RecipeError
from bottega.recipe.files import resolve_source_path
from bottega.recipe.schema import Layout, Recipe, Source
from bottega.records.formats import record_types
from bottega.suggestions import describe_errors

# Distinct error messages that get a finding of their own. A message may quote the row (a misspelt field, a bad value),
# so without a limit a broken file would give as many findings as rows.
MAX_REASONS = 50

# Formats with about one row per line, whose rows can be counted without parsing them.
LINE_FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True)
class AuditRows:
    """One or more sources read as a single set of rows.

    other_sources  sources read in the same audit: files of the same name get distinguishable locations
    record_types   types of record the rows may be, in order of preference
    keep           called with the index of each valid record: whether it belongs to this set; None keeps all
    """

    name: str
    sources: Sequence[Source]
    other_sources: Sequence[Source]
    record_types: tuple[type, ...] = field(default_factory=record_types)
    keep: Callable[[int], bool] | None = None

    def entries(self, locations: RowLocations, invalid: InvalidRows | None = None) -> Iterator[Entry]:
        """Every valid row; the others are added to `invalid`. Raises a DataError if no row of the sources is valid."""
        invalid = invalid or InvalidRows()
        records = read_records(
            self.sources,
            self.record_types,
            siblings=self.other_sources,
            # Every row is registered before it is parsed, so a row that fails is the last one registered.
            on_row=locations.add,
            on_bad=lambda error: invalid.add(len(locations) - 1, error),
            on_damage=invalid.damaged.append,
            fix="check the format; set it with --format and --map",
        )
        for index, (_, record) in enumerate(records):
            if self.keep is None or self.keep(index):
                yield create_entry(len(locations) - 1, record)


class InvalidRows:
    """Indices of the rows that cannot be parsed, by reason; and errors that ended the reading of a file."""

    def __init__(self) -> None:
        self.rows: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self.fixes: dict[str, str] = {}
        self.damaged: list[DataError] = []
        self.first_reason = ""

    def add(self, index: int, error: DataError) -> None:
        reason = error.what if error.what in self.rows or len(self.rows) < MAX_REASONS else "other faults"
        self.rows[reason].append(index)
        self.fixes.setdefault(reason, error.fix or "correct or remove the row")
        self.first_reason = self.first_reason or error.what

    def findings(self, context: Context) -> Iterator[Finding]:
        """One finding for each damaged file and for each reason, the most frequent first."""
        for error in self.damaged:
            what = f"{error.what}: nothing after this line was read"
            yield Finding("damaged file", "error", what, error.fix or "restore it", 1, [error.where or ""])
        for reason, rows in sorted(self.rows.items(), key=lambda pair: -len(pair[1])):
            what = f"invalid row: {reason}"
            yield context.finding("unsound", "error", what, self.fixes[reason], rows, mend="remove")


def select_rows(
    data: Recipe | Sequence[str], against: Sequence[str], format: str, mapping: Mapping[str, str], layout: Layout
) -> tuple[AuditRows, list[AuditRows]]:
    """(the data, the comparison sets). The validation rows of a recipe are a comparison set of their own."""
    if isinstance(data, Recipe):
        # A recipe describes the layout of its own sources only; those of `against` are described by the options.
        return _select_recipe_rows(
            data, {path: _parse_source(path, format, mapping, layout.for_file(path, [])) for path in against}
        )
    # The layout describes the data; a comparison file takes it over only if its name ends like one of them.
    compared = {path: _parse_source(path, format, mapping, layout.for_file(path, data)) for path in against}
    train = [_parse_source(path, format, mapping, layout) for path in data]
    comparisons = [AuditRows(path, [source], train) for path, source in compared.items()]
    return AuditRows("rows", train, [*compared.values()]), comparisons


def _select_recipe_rows(recipe: Recipe, compared: Mapping[str, Source]) -> tuple[AuditRows, list[AuditRows]]:
    types, train, validation = recipe.objective.reads, recipe.train_sources, recipe.validation_sources
    others = [*validation, *compared.values()]
    train_rows = AuditRows("train", train, others, types)
    comparisons = [AuditRows(path, [source], [*train, *validation]) for path, source in compared.items()]
    if validation:
        comparisons.insert(0, AuditRows("validation", validation, train, types))
    held_out = _held_out_mask(train_rows, recipe)  # [valid records]
    if held_out is not None:
        train_rows = AuditRows("train", train, others, types, lambda index: not bool(held_out[index]))
        held_rows = AuditRows("the validation rows", train, others, types, lambda index: bool(held_out[index]))
        comparisons.insert(0, held_rows)
    return train_rows, comparisons


def _held_out_mask(rows: AuditRows, recipe: Recipe) -> NDArray[np.bool_] | None:
    """[valid records] whether the recipe holds each out for validation; None if it holds out no fraction of them."""
    fraction = recipe.data.validation
    if not isinstance(fraction, float):
        return None
    entries = (entry.record for entry in rows.entries(RowLocations()))
    # None as well for a few long documents: the end of each is held out then, and no whole row.
    return Split(entries, fraction, recipe.seed, stratified=recipe.stratified).held


def _parse_source(path: str, format: str, mapping: Mapping[str, str], layout: Layout) -> Source:
    """The source at `path`; a RecipeError names the command-line option that is wrong."""
    options = {"format": format, "mapping": dict(mapping), **layout.model_dump()}
    try:
        return Source.model_validate({"path": resolve_source_path(path), **options})
    except ValidationError as error:
        problems = error.errors()
        what, fix = describe_errors(problems[:1])
        where = f"--{problems[0]['loc'][0]}"
        raise RecipeError(what, where=where, fix=fix or "see bottega audit --help") from None


def estimate_row_count(row_sets: Sequence[AuditRows]) -> int | None:
    """Approximate number of rows from the lines of the files; None if a file has no row per line, or is remote."""
    files = [file for rows in row_sets for source in rows.sources for file in sources.source_files(source) or [Path()]]
    if not all(suffix(file) in LINE_FORMATS and file.suffix not in COMPRESSED and file.is_file() for file in files):
        return None
    return sum(_count_lines(file) for file in files)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
