"""The raw rows of sources: files, folders, datasets saved on disk or on the Hugging Face hub, or slices of them.

Every row comes with its location, which later error messages quote. Slices use the notation of the `datasets` library:
`train[:80%]`, `train[4096:4224]`, `train[-100:]`, joined by `+`. `records.parser` parses them.
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

from bottega.data.files import READERS, read, readable, suffix, unit
from bottega.data.open_files import count_characters, refuse_long, require_regular_file
from bottega.data.table_files import feature_decoder
from bottega.errors import BottegaError, DataError
from bottega.recipe.schema import Layout, Source
from bottega.records.fields import Fields, RawRow

DATASET_FILES = ("dataset_dict.json", "state.json")
SLICE = re.compile(r"(?P<name>[^\[\]+]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class SourceSlice(NamedTuple):
    """A slice of a split. Bounds are rows (`-100` counts from the end) or a percentage of all rows (`80%`)."""

    split: str
    start: str | None = None
    stop: str | None = None

    def bounds(self, count: int) -> tuple[int, int]:
        """(first row, row after the last) of a split with `count` rows."""
        first, last = (0 if bound is None else _row_index(bound, count) for bound in (self.start, self.stop))
        return first, count if self.stop is None else last

    @property
    def needs_count(self) -> bool:
        """Whether the bounds depend on the number of rows, so that the rows must be counted first."""
        return any(bound.startswith("-") or bound.endswith("%") for bound in (self.start, self.stop) if bound)


def open_sources(sources: Sequence[Source], siblings: Sequence[Source] = ()) -> Iterator[tuple[int, Iterator[RawRow]]]:
    """Yield (index, raw rows) of each source.

    siblings  other sources of the same run: a file name that occurs twice is shown with its folder
    """
    names = Counter(path.name for path in {Path(source.path) for source in (*sources, *siblings)})
    for index, source in enumerate(sources):
        path = Path(source.path)
        yield index, _source_rows(source, path.name if names[path.name] == 1 else f"{path.parent.name}/{path.name}")


def source_files(source: Source) -> list[Path]:
    """Every file that a source reads; an empty list for a dataset on the hub."""
    path = Path(source.path)
    if not os.path.isdir(path):
        require_regular_file(path)
        return [path] if path.is_absolute() else []
    if _is_dataset(path):
        return [file for file in _list_files(path) if suffix(file) == ".arrow"]
    return [file for file in _list_files(path) if readable(file, source)]


def _source_rows(source: Source, name: str) -> Iterator[RawRow]:
    path, slices = Path(source.path), _parse_slices(source)
    if not path.is_absolute() or _is_dataset(path):
        return chain.from_iterable(_dataset_rows(source, name, part) for part in slices)
    for part in slices:
        if part.split != "train":
            raise DataError(
                f"no split {part.split}: a file or folder is the split train",
                where=source.path,
                fix=f"give that split's file; if one JSON file holds all, field: {part.split}; for a part train[…]",
            )
    return chain.from_iterable(_slice_rows(source, name, part) for part in slices)


def _parse_slices(source: Source) -> list[SourceSlice]:
    slices = []
    for text in (source.split or "train").split("+"):
        match = SLICE.fullmatch(text.strip())
        if match is None:
            raise DataError(f"not a slice: {text}", where=source.path, fix="write train[:80%] or train[4096:4224]")
        slices.append(SourceSlice(match["name"], match["start"], match["stop"]))
    return slices


def _row_index(bound: str, count: int) -> int:
    number = round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
    return min(max(number + count if number < 0 else number, 0), count)


# Files and folders


def _slice_rows(source: Source, name: str, part: SourceSlice) -> Iterator[RawRow]:
    """The rows of a file or folder within a slice."""
    # Counting means reading everything once more, so it is done only for bounds that need it.
    count = sum(1 for _ in _all_rows(source, name)) if part.needs_count else sys.maxsize
    first, end = part.bounds(count)
    return _refuse_empty_slice(islice(_all_rows(source, name), first, max(first, end)), source.path, part)


def _refuse_empty_slice(rows: Iterator[RawRow], path: str, part: SourceSlice) -> Iterator[RawRow]:
    first = next(rows, None)
    if first is None:
        raise DataError(
            f"the slice [{part.start or ''}:{part.stop or ''}] holds no rows",
            where=path,
            fix="the file has fewer rows; correct the bounds",
        )
    return chain([first], rows)


def _all_rows(source: Source, name: str) -> Iterator[RawRow]:
    path = Path(source.path)
    if not os.path.isdir(path):
        return _file_rows(path, name, source)
    files = [file for file in _list_files(path) if readable(file, source)]
    if not files:
        raise DataError(
            "the folder holds no file that can be read",
            where=str(path),
            fix=f"it reads {' '.join(READERS)}",
        )
    return chain.from_iterable(_file_rows(file, str(Path(name) / file.relative_to(path)), source) for file in files)


def _file_rows(path: Path, name: str, source: Source) -> Iterator[RawRow]:
    require_regular_file(path)  # first: `unit` opens the file, and opening a named pipe would block
    line_or_row = unit(path, source)
    return ((f"{name} {line_or_row} {line}", fields) for line, fields in read(path, source))


def _list_files(folder: Path) -> list[Path]:
    """Every file below a folder except hidden ones, sorted by path so that the order of rows is reproducible."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


# Datasets, through the `datasets` library


def _is_dataset(path: Path) -> bool:
    return any(os.path.exists(path / mark) for mark in DATASET_FILES)


def _dataset_rows(source: Source, name: str, part: SourceSlice) -> Iterator[RawRow]:
    """The rows of a dataset on disk (`save_to_disk`) or on the hub, stored or streamed."""
    with _library_errors_as_data_errors(source):
        read_slice, count = _load_split(source, part)
    first, end = part.bounds(count)
    label = name if part.split == "train" else f"{name} {part.split}"

    def rows() -> Iterator[RawRow]:
        with _library_errors_as_data_errors(source):
            for number, row in enumerate(read_slice(first, end), first + 1):
                refuse_long(Path(label), number, count_characters(row), "row")
                yield f"{label} row {number}", row

    return rows()


@contextmanager
def _library_errors_as_data_errors(source: Source) -> Iterator[None]:
    """Turn any error of the `datasets` library into a DataError."""
    try:
        yield
    except BottegaError:
        raise
    except Exception as error:  # loaders raise whatever the libraries below them raise: there is no common class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        missing = "no such file, and no such dataset on the hub, as far as it can be reached: "
        prefix = "" if Path(source.path).is_absolute() else missing
        fix = "check its name, config and split; a file's path resolves against the recipe's folder"
        raise DataError(f"{prefix}{reason}", where=source.path, fix=fix) from None


# (function from the bounds [first, end) to rows, number of rows).
SliceReader = tuple[Callable[[int, int], Iterator[Fields | DataError]], int]


def _load_split(source: Source, part: SourceSlice) -> SliceReader:
    """A reader of the rows of one split, and their number (`sys.maxsize` if unknown)."""
    import datasets

    datasets.disable_progress_bars()
    if Path(source.path).is_absolute():
        loaded = datasets.load_from_disk(source.path)
        whole = loaded[part.split] if isinstance(loaded, dict) else loaded
    elif not source.stream and (json_files := _load_json_files(source, part)) is not None:
        return json_files
    else:
        whole = datasets.load_dataset(source.path, source.config, split=part.split, streaming=source.stream)
    decode = feature_decoder(whole.features.to_dict() if whole.features else {})
    if isinstance(whole, datasets.Dataset):
        return lambda first, end: map(decode, whole.select(range(first, end))), len(whole)
    if part.needs_count:
        raise DataError(
            "a streamed dataset cannot be sliced from its end or by percentage",
            where=source.path,
            fix="give numbers of rows, as in train[:4096], or remove stream",
        )
    return lambda first, end: map(decode, whole.skip(first).take(end - first)), int(part.stop or sys.maxsize)


def _load_json_files(source: Source, part: SourceSlice) -> SliceReader | None:
    """A reader of a hub dataset's own JSON files; None if the dataset has another format.

    The library parses strings that look like dates as timestamps, so the model would learn other text than the files
    contain. Reading the files directly keeps it.
    """
    import datasets

    builder = datasets.load_dataset_builder(source.path, source.config)
    if builder.name != "json" or not builder.config.data_files or builder.config.field is not None:
        return None
    paths = builder.config.data_files.get(part.split)
    if not paths:
        return None
    files = [Path(file) for file in datasets.DownloadManager().download_and_extract(list(map(str, paths)))]
    features = builder.info.features
    decode = feature_decoder(features.to_dict() if features else {}, drop_nulls=False)

    def read_slice(first: int, end: int) -> Iterator[Fields | DataError]:
        rows = (fields for file in files for _, fields in read(file, Layout(reader=_detect_json_reader(file))))
        return (
            fields if isinstance(fields, DataError) else decode(fields)
            for fields in islice(rows, first, max(first, end))
        )

    count = sum(1 for _ in read_slice(0, sys.maxsize)) if part.needs_count else int(part.stop or sys.maxsize)
    return read_slice, count


def _detect_json_reader(path: Path) -> Literal["json", "jsonl"]:
    """The reader of a JSON file whose name in the cache has no suffix: one array, or one object per line."""
    with path.open("rb") as file:
        return "json" if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else "jsonl"
