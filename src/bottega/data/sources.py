"""Sources → fields: files, folders, datasets on disk or on the hub, whole or a slice of them.

Every row comes with the place it stands at, by which later complaints name it. Slices are written as the `datasets`
library writes them: `train[:80%]`, `train[4096:4224]`, `train[-100:]`, joined by `+`.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple

from bottega.data.fields import Fields, RawRow
from bottega.data.files import READERS, read, readable, suffix, unit
from bottega.data.open_files import characters, refuse_long, refuse_what_is_no_file
from bottega.data.table_files import as_declared
from bottega.errors import BottegaError, DataError
from bottega.recipe.schema import Layout, Source

DATASET_FILES = ("dataset_dict.json", "state.json")
SLICE = re.compile(r"(?P<name>[^\[\]+]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class SourceSlice(NamedTuple):
    """A slice of a split: bounds in rows, or in per cent of all rows."""

    split: str
    start: str | None = None
    stop: str | None = None

    def bounds(self, count: int) -> tuple[int, int]:
        """First row and the one after the last, of `count`."""
        first, last = (0 if bound is None else _row_index(bound, count) for bound in (self.start, self.stop))
        return first, count if self.stop is None else last

    @property
    def needs_count(self) -> bool:
        """Whether the bounds depend on how many rows there are."""
        return any(bound.startswith("-") or bound.endswith("%") for bound in (self.start, self.stop) if bound)


def open_sources(sources: Sequence[Source], others: Sequence[Source] = ()) -> Iterator[tuple[int, Iterator[RawRow]]]:
    """(number, rows) of each source; a file of the same name as another, of `others` too, is named with its folder."""
    names = Counter(path.name for path in {Path(source.path) for source in (*sources, *others)})
    for number, source in enumerate(sources):
        path = Path(source.path)
        yield number, _source_rows(source, path.name if names[path.name] == 1 else f"{path.parent.name}/{path.name}")


def source_files(source: Source) -> list[Path]:
    """Every file a source reads; none for a dataset on the hub."""
    path = Path(source.path)
    if not os.path.isdir(path):
        refuse_what_is_no_file(path)
        return [path] if path.is_absolute() else []
    if _is_dataset(path):
        return [file for file in _list_files(path) if suffix(file) == ".arrow"]
    return [file for file in _list_files(path) if readable(file, source)]


def _source_rows(source: Source, name: str) -> Iterator[RawRow]:
    path, parts = Path(source.path), _parse_split(source)
    if not path.is_absolute() or _is_dataset(path):
        return chain.from_iterable(_dataset_rows(source, name, part) for part in parts)
    for part in parts:
        if part.split != "train":
            raise DataError(
                f"no split {part.split}: files are the split train",
                where=source.path,
                fix=f"name the file of the split, or its key in one JSON: field: {part.split}; or slice it as train[…]",
            )
    return chain.from_iterable(_slice_rows(source, name, part) for part in parts)


def _parse_split(source: Source) -> list[SourceSlice]:
    found = []
    for text in (source.split or "train").split("+"):
        match = SLICE.fullmatch(text.strip())
        if match is None:
            raise DataError(f"not a slice: {text}", where=source.path, fix="write train[:80%] or train[4096:4224]")
        found.append(SourceSlice(match["name"], match["start"], match["stop"]))
    return found


def _row_index(bound: str, count: int) -> int:
    number = round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
    return min(max(number + count if number < 0 else number, 0), count)


# Files and folders


def _slice_rows(source: Source, name: str, part: SourceSlice) -> Iterator[RawRow]:
    """The rows of a file or folder within a slice; they are counted first only where its bounds ask for that."""
    count = sum(1 for _ in _all_rows(source, name)) if part.needs_count else sys.maxsize
    first, end = part.bounds(count)
    return _refuse_empty_slice(islice(_all_rows(source, name), first, max(first, end)), source.path, part)


def _refuse_empty_slice(kept: Iterator[RawRow], path: str, part: SourceSlice) -> Iterator[RawRow]:
    first = next(kept, None)
    if first is None:
        raise DataError(
            f"the slice [{part.start or ''}:{part.stop or ''}] holds no rows",
            where=path,
            fix="the file has fewer; mend the bounds",
        )
    return chain([first], kept)


def _all_rows(source: Source, name: str) -> Iterator[RawRow]:
    path = Path(source.path)
    if not os.path.isdir(path):
        return _file_rows(path, name, source)
    found = [file for file in _list_files(path) if readable(file, source)]
    if not found:
        raise DataError(
            "the folder holds no file that can be read", where=str(path), fix=f"it reads {' '.join(READERS)}"
        )
    return chain.from_iterable(_file_rows(file, str(Path(name) / file.relative_to(path)), source) for file in found)


def _file_rows(path: Path, name: str, source: Source) -> Iterator[RawRow]:
    refuse_what_is_no_file(path)  # before a look into it, which would wait for what a pipe may bring
    counted = unit(path, source)
    return ((f"{name} {counted} {line}", fields) for line, fields in read(path, source))


def _list_files(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones apart, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


# Datasets, through the library of that name


def _is_dataset(path: Path) -> bool:
    return any(os.path.exists(path / mark) for mark in DATASET_FILES)


def _dataset_rows(source: Source, name: str, part: SourceSlice) -> Iterator[RawRow]:
    """Rows of a dataset on disk (`save_to_disk`) or on the hub; one from the hub may be streamed."""
    with _library_errors_as_data_errors(source):
        found, count = _load_split(source, part)
    first, end = part.bounds(count)
    label = name if part.split == "train" else f"{name} {part.split}"

    def rows() -> Iterator[RawRow]:
        with _library_errors_as_data_errors(source):
            for number, row in enumerate(found(first, end), first + 1):
                refuse_long(Path(label), number, characters(row), "row")
                yield f"{label} row {number}", row

    return rows()


@contextmanager
def _library_errors_as_data_errors(source: Source) -> Iterator[None]:
    """What `datasets` raises, which is whatever its loaders raise, as a DataError."""
    try:
        yield
    except BottegaError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        missing = "no such file, and no such dataset as far as the hub can be asked: "
        missing = "" if Path(source.path).is_absolute() else missing
        fix = "check its name, config and split; a file's path resolves against the recipe's folder"
        raise DataError(f"{missing}{reason}", where=source.path, fix=fix) from None


# (from, to → rows, number of rows).
SliceReader = tuple[Callable[[int, int], Iterator[Fields | DataError]], int]


def _load_split(source: Source, part: SourceSlice) -> SliceReader:
    """The rows of one split."""
    import datasets

    datasets.disable_progress_bars()
    if Path(source.path).is_absolute():
        loaded = datasets.load_from_disk(source.path)
        whole = loaded[part.split] if isinstance(loaded, dict) else loaded
    elif not source.stream and (written := _load_json_files(source, part)) is not None:
        return written
    else:
        whole = datasets.load_dataset(source.path, source.config, split=part.split, streaming=source.stream)
    named = as_declared(whole.features.to_dict() if whole.features else {})
    if isinstance(whole, datasets.Dataset):
        return lambda first, end: map(named, whole.select(range(first, end))), len(whole)
    if part.needs_count:
        raise DataError(
            "a streamed dataset cannot be sliced from its end or by per cent",
            where=source.path,
            fix="write rows, train[:4096], or leave stream away",
        )
    return lambda first, end: map(named, whole.skip(first).take(end - first)), int(part.stop or sys.maxsize)


def _load_json_files(source: Source, part: SourceSlice) -> SliceReader | None:
    """The rows of a dataset that is JSON files, read from these; None for any other.

    The library takes a column of texts that look like dates for times, and what is learned would not be what the files
    say.
    """
    import datasets

    builder = datasets.load_dataset_builder(source.path, source.config)
    named = builder.config.data_files.get(part.split) if builder.name == "json" and builder.config.data_files else None
    if not named or builder.config.field is not None:
        return None
    files = [Path(file) for file in datasets.DownloadManager().download_and_extract(list(map(str, named)))]
    features = builder.info.features
    declared = as_declared(features.to_dict() if features else {}, made=False)

    def rows(first: int, end: int) -> Iterator[Fields | DataError]:
        found = (fields for file in files for _, fields in read(file, Layout(reader=_detect_json_reader(file))))
        return (one if isinstance(one, DataError) else declared(one) for one in islice(found, first, max(first, end)))

    return rows, sum(1 for _ in rows(0, sys.maxsize)) if part.needs_count else int(part.stop or sys.maxsize)


def _detect_json_reader(path: Path) -> Literal["json", "jsonl"]:
    """What reads a file of JSON whose name says nothing of it."""
    with path.open("rb") as file:
        return "json" if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else "jsonl"
