"""The example cache: encoded examples in a temporary file, so that memory does not grow with the data.

The file has no name and disappears with its process. Redundant parts of a row are not stored: labels equal to the row's
next tokens, weights that are all equal, positions that are consecutive.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Example, Row
from bottega.errors import RunError


class PackedExample(NamedTuple):
    """An example as the cache stores it.

    data      its rows, id and metadata
    tokens    tokens of its rows, counting shared prefixes once per row
    most      largest token id in any row, -1 if there are no tokens
    labelled  predictions with a loss
    """

    data: bytes
    tokens: int
    most: int
    labelled: int


def pack_example(example: Example) -> PackedExample:
    data = pickle.dumps((example.id, [_compress_row(row) for row in example.rows], example.about), protocol=5)
    texts = (text for row in example.rows for text in (row.tokens, row.source) if text is not None)
    most = max(int(text.max(initial=-1)) for text in texts)
    return PackedExample(data, example.tokens, most, sum(row.loss_count for row in example.rows))


class _Columns(NamedTuple):
    """What is in memory of the examples, each an array [examples]: 25 bytes an example.

    start, size  bytes in the file
    tokens       counting shared prefixes once per row
    source       index of its source
    labelled     predictions with a loss
    begins       1 for the first example of a record
    """

    start: array[int]
    size: array[int]
    tokens: array[int]
    source: array[int]
    labelled: array[int]
    begins: array[int]

    @classmethod
    def empty(cls) -> _Columns:
        return cls(array("q"), array("I"), array("I"), array("I"), array("I"), array("B"))

    def part(self, mine: NDArray[np.bool_]) -> _Columns:
        columns = _Columns(*(array(column.typecode) for column in self))
        for column, whole in zip(columns, self, strict=True):
            column.frombytes(np.asarray(whole)[mine].view(np.uint8).data)
        return columns


class _CacheFile:
    """A temporary file without a name, which disappears when the last cache that reads it does."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.size = folder, 0
        with disk_errors_as_run_errors(folder, "the encoded rows"):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as this
        weakref.finalize(self, close_quietly, self._file)

    def append(self, data: bytes) -> int:
        """Write bytes at the end; returns where they begin."""
        with disk_errors_as_run_errors(self.folder, "the encoded rows"):
            self._file.write(data)
        self.size += len(data)
        return self.size - len(data)

    def flush(self) -> None:
        with disk_errors_as_run_errors(self.folder, "the encoded rows"):
            self._file.flush()

    def read(self, start: int, size: int) -> bytes:
        # `pread` keeps no file position, so that threads may read at the same time.
        return os.pread(self._file.fileno(), size, start)


class ExampleCache(Sequence[Example]):
    """Examples that are appended once and then read in any order.

    folder  folder of the temporary file; by default the system's folder for them
    most    largest token id in any row, -1 if there are no tokens
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file, self._columns, self.most = _CacheFile(folder), _Columns.empty(), -1

    def append(self, example: PackedExample, source: int = 0, *, continues: bool = False) -> None:
        """Add an example; `continues` if it comes from the same record as the previous one."""
        start = self._file.append(example.data)
        values = start, len(example.data), example.tokens, source, example.labelled, not continues
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self.most = max(self.most, example.most)

    def seal(self) -> None:
        """Flush the file: required after the last `append` and before the first read."""
        self._file.flush()

    def part(self, mine: NDArray[np.bool_]) -> ExampleCache:
        """The examples of some of the records; its `most` is that of the whole.

        mine  [records] a flag for each record that has examples
        """
        part = copy(self)
        vars(part).pop("_records", None)
        numbers = np.cumsum(np.asarray(self._columns.begins))  # [examples] of the record of each, from 1
        part._columns = self._columns.part(np.append(False, mine)[numbers])
        return part

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """[examples] tokens of each example, counting shared prefixes once per row."""
        return np.asarray(self._columns.tokens)

    @property
    def sources(self) -> NDArray[np.uint32]:
        """[examples] index of the source of each example."""
        return np.asarray(self._columns.source)

    @property
    def labelled(self) -> int:
        """Number of predictions with a loss, over all rows."""
        return int(np.asarray(self._columns.labelled).sum(dtype=np.int64))

    def siblings(self, index: int) -> range:
        """Indices of the examples made from the same record as example `index`, including itself."""
        number = int(np.searchsorted(self._records, index, side="right"))
        stop = self._records[number] if number < len(self._records) else len(self)
        return range(int(self._records[number - 1]), int(stop))

    @cached_property
    def _records(self) -> NDArray[np.int64]:
        """[records] the first example of each."""
        return np.flatnonzero(self._columns.begins)

    def __len__(self) -> int:
        return len(self._columns.tokens)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # negative indices, and an IndexError beyond the ends
        name, rows, about = pickle.loads(self._file.read(self._columns.start[index], self._columns.size[index]))
        return Example(name, tuple(_restore_row(row) for row in rows), about)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


def close_quietly(file: IO[bytes]) -> None:
    """Close a file that is no longer needed; an error of a full disk has already been reported by `append`."""
    with suppress(OSError):
        file.close()


@contextmanager
def disk_errors_as_run_errors(folder: Path | None, what: str) -> Iterator[None]:
    """Turn an OSError into a RunError that names the folder and what was being written."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the disk is too full for {what}: {error.strerror}",
            where=str(folder or tempfile.gettempdir()),
            fix="free some space, or take another disk: --out for a run, TMPDIR for all else",
        ) from None


def _compress_row(row: Row) -> tuple[Any, ...]:
    """A compact form of a row: (tokens, positions, labels, weights, both_ways, columns, source)."""
    at, label, weight = row.at, row.label, row.weight
    first, last = int(at[0]), int(at[-1])
    follows = last - first == len(at) - 1
    derived = False  # whether the labels are the row's next tokens
    if label.dtype == np.int64:
        # The last label of a block is the token after its end, which the row does not contain.
        inside = len(at) - (last + 1 == len(row.tokens))
        after = row.tokens[first + 1 : first + 1 + inside] if follows else row.tokens[at[:inside] + 1]
        # Bytes compare several times faster than short arrays do.
        derived = after.tobytes() == label[:inside].tobytes()
    labels = label[inside:].tolist() if derived else label
    uniform = weight.tobytes() == weight[:1].tobytes() * len(weight)
    positions = (first, last + 1) if follows else _to_smallest_type(at)
    weights = float(weight[0]) if uniform else weight
    source = None if row.source is None else _to_smallest_type(row.source)
    return _to_smallest_type(row.tokens), positions, labels, weights, row.both_ways, dict(row.columns), source


def _restore_row(row: tuple[Any, ...]) -> Row:
    stored, positions, labels, weights, both_ways, columns, source = row
    tokens = _to_int64(stored)
    at = np.arange(*positions) if isinstance(positions[0], int) else _to_int64(positions)
    if isinstance(labels, list):
        inside = len(at) - len(labels)
        # A slice is several times faster than indexing by positions.
        after = (
            tokens[positions[0] + 1 : positions[0] + 1 + inside]
            if isinstance(positions[0], int)
            else tokens[at[:inside] + 1]
        )
        labels = np.append(after, np.array(labels, np.int64)) if labels else after.copy()
    weight = np.full(len(at), weights, np.float32) if isinstance(weights, float) else weights
    return Row(tokens, at, labels, weight, both_ways, columns, None if source is None else _to_int64(source))


def _to_smallest_type(values: NDArray[Any]) -> tuple[str, bytes]:
    """(type code, bytes) of non-negative integers, in the smallest type that holds them."""
    small = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    return small.dtype.char, small.tobytes()


def _to_int64(stored: tuple[str, bytes]) -> NDArray[np.int64]:
    """The inverse of `_to_smallest_type`."""
    name, data = stored
    return np.frombuffer(data, name).astype(np.int64)
