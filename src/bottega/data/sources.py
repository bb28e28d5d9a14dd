"""Sources → fields: files, folders, datasets on disk or on the hub, whole or a slice of them.

Every row comes with the place it stands at, by which later complaints name it. Slices are written as the `datasets`
library writes them: `train[:80%]`, `train[4096:4224]`, `train[-100:]`, joined by `+`.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from bottega.data.fields import Fields
from bottega.data.files import READERS, read, readable, suffix
from bottega.errors import BottegaError, DataError
from bottega.recipe import Source

Placed = tuple[str, Fields | DataError]
"""A row, or what is wrong with its line, and the place it stands at: `tickets.jsonl line 812`."""

DATASET_MARKS = ("dataset_dict.json", "state.json")
SLICE = re.compile(r"(?P<name>[^\[\]+]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Part(NamedTuple):
    """A slice of a split: bounds in rows, or in per cent of all rows."""

    split: str
    start: str | None = None
    stop: str | None = None

    def bounds(self, count: int) -> tuple[int, int]:
        """First row and the one after the last, of `count`."""
        first, last = (0 if bound is None else _place(bound, count) for bound in (self.start, self.stop))
        return first, count if self.stop is None else last

    @property
    def needs_count(self) -> bool:
        """Whether the bounds depend on how many rows there are."""
        return any(bound.startswith("-") or bound.endswith("%") for bound in (self.start, self.stop) if bound)


def rows(sources: Sequence[Source], others: Sequence[Source] = ()) -> Iterator[tuple[int, Iterator[Placed]]]:
    """(number, rows) of each source; a file of the same name as another, of `others` too, is named with its folder."""
    names = Counter(path.name for path in {Path(source.path) for source in (*sources, *others)})
    for number, source in enumerate(sources):
        path = Path(source.path)
        yield number, _rows(source, path.name if names[path.name] == 1 else f"{path.parent.name}/{path.name}")


def files(source: Source) -> list[Path]:
    """Every file a source reads; none for a dataset on the hub."""
    path = Path(source.path)
    if not os.path.isdir(path):
        return [path] if path.is_absolute() else []
    wanted = ".arrow" if _is_dataset(path) else None
    return [file for file in _inside(path) if (suffix(file) == wanted if wanted else suffix(file) in READERS)]


def _rows(source: Source, name: str) -> Iterator[Placed]:
    path, parts = Path(source.path), _parts(source)
    if not path.is_absolute() or _is_dataset(path):
        return chain.from_iterable(_dataset(source, name, part) for part in parts)
    for part in parts:
        if part.split != "train":
            raise DataError(
                f"no split {part.split}: files are the split train",
                where=source.path,
                fix="name the file of the split, or slice it as train[…]",
            )
    return chain.from_iterable(_slice(path, name, part) for part in parts)


def _parts(source: Source) -> list[Part]:
    found = []
    for text in (source.split or "train").split("+"):
        match = SLICE.fullmatch(text.strip())
        if match is None:
            raise DataError(f"not a slice: {text}", where=source.path, fix="write train[:80%] or train[4096:4224]")
        found.append(Part(match["name"], match["start"], match["stop"]))
    return found


def _place(bound: str, count: int) -> int:
    number = round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
    return min(max(number + count if number < 0 else number, 0), count)


# Files and folders


def _slice(path: Path, name: str, part: Part) -> Iterator[Placed]:
    """The rows of a file or folder within a slice; they are counted first only where its bounds ask for that."""
    count = sum(1 for _ in _all(path, name)) if part.needs_count else sys.maxsize
    first, end = part.bounds(count)
    return _some(islice(_all(path, name), first, max(first, end)), path, part)


def _some(kept: Iterator[Placed], path: Path, part: Part) -> Iterator[Placed]:
    first = next(kept, None)
    if first is None:
        raise DataError(
            f"the slice [{part.start or ''}:{part.stop or ''}] holds no rows",
            where=str(path),
            fix="the file has fewer; mend the bounds",
        )
    return chain([first], kept)


def _all(path: Path, name: str) -> Iterator[Placed]:
    if not os.path.isdir(path):
        return _file(path, name)
    found = [file for file in _inside(path) if readable(file)]
    if not found:
        raise DataError(
            "the folder holds no file that can be read", where=str(path), fix=f"it reads {' '.join(READERS)}"
        )
    return chain.from_iterable(_file(file, str(Path(name) / file.relative_to(path))) for file in found)


def _file(path: Path, name: str) -> Iterator[Placed]:
    unit = "row" if suffix(path) == ".parquet" else "line"
    return ((f"{name} {unit} {line}", fields) for line, fields in read(path))


def _inside(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones apart, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


# Datasets, through the library of that name


def _is_dataset(path: Path) -> bool:
    return any(os.path.exists(path / mark) for mark in DATASET_MARKS)


def _dataset(source: Source, name: str, part: Part) -> Iterator[Placed]:
    """Rows of a dataset on disk (`save_to_disk`) or on the hub; one from the hub may be streamed."""
    try:
        found, count = _loaded(source, part)
    except BottegaError:
        raise
    except Exception as error:  # datasets raises what its loaders raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        missing = (
            ""
            if Path(source.path).is_absolute()
            else "no such file, and no such dataset as far as the hub can be asked: "
        )
        fix = "check its name, config and split; a file's path resolves against the recipe's folder"
        raise DataError(f"{missing}{reason}", where=source.path, fix=fix) from None
    first, end = part.bounds(count)
    label = name if part.split == "train" else f"{name} {part.split}"
    return ((f"{label} row {first + number}", fields) for number, fields in enumerate(found(first, end), 1))


def _loaded(source: Source, part: Part) -> tuple[Callable[[int, int], Iterator[Fields]], int]:
    """(from, to → rows, number of rows) of one split."""
    import datasets

    datasets.disable_progress_bars()
    if Path(source.path).is_absolute():
        loaded = datasets.load_from_disk(source.path)
        whole = loaded[part.split] if isinstance(loaded, dict) else loaded
    else:
        whole = datasets.load_dataset(source.path, source.config, split=part.split, streaming=source.stream)
    named = _class_names(whole.features or {})
    if isinstance(whole, datasets.Dataset):
        return lambda first, end: map(named, whole.select(range(first, end))), len(whole)
    if part.needs_count:
        raise DataError(
            "a streamed dataset cannot be sliced from its end or by per cent",
            where=source.path,
            fix="write rows, train[:4096], or leave stream away",
        )
    return lambda first, end: map(named, whole.skip(first).take(end - first)), int(part.stop or sys.maxsize)


def _class_names(features: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Fields]:
    """Rows with the names of their classes where the dataset holds numbers."""
    import datasets

    kinds = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
    names = {name: kind.names for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}

    def named(value: Any, known: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(item, known) for item in value]
        return known[value] if isinstance(value, int) and value >= 0 else value

    return lambda row: {**row, **{name: named(row[name], known) for name, known in names.items()}}
