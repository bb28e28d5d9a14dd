"""The example cache: encoded examples in temporary files, so that memory does not grow with the data.

The files have no name and disappear with their process. Redundant parts of a row are not stored: labels equal to the
row's next tokens, weights that are all equal, positions that are consecutive.
"""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import weakref
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

# What the index says of an example:
#   start, size  bytes in the file
#   tokens       counting shared prefixes once per row
#   labelled     predictions with a loss
#   source       index of its source
#   begins       1 for the first example of a record
ENTRY = np.dtype([(name, np.int64) for name in ("start", "size", "tokens", "labelled", "source", "begins")])
ENTRY_STRUCT = struct.Struct("=6q")

# Entries of the index that are read at once.
BLOCK_ENTRIES = 1 << 15


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


class _CacheFile:
    """A temporary file without a name, which disappears when the last cache that reads it does."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.size, self._flushed = folder, 0, True
        with disk_errors_as_run_errors(folder, "the encoded rows"):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as this
        weakref.finalize(self, close_quietly, self._file)

    def append(self, data: bytes) -> int:
        """Write bytes at the end; returns where they begin."""
        with disk_errors_as_run_errors(self.folder, "the encoded rows"):
            self._file.write(data)
        self.size, self._flushed = self.size + len(data), False
        return self.size - len(data)

    def flush(self) -> None:
        with disk_errors_as_run_errors(self.folder, "the encoded rows"):
            self._file.flush()
        self._flushed = True

    def read(self, start: int, size: int) -> bytes:
        if not self._flushed:
            self.flush()
        # `pread` keeps no file position, so that threads may read at the same time.
        return os.pread(self._file.fileno(), size, start)


class _Index:
    """What is known of each example without reading it: records of the same size in a file, each a row of ENTRY."""

    def __init__(self, folder: Path | None) -> None:
        self._file, self.count = _CacheFile(folder), 0

    def append(self, entries: bytes) -> None:
        self._file.append(entries)
        self.count += len(entries) // ENTRY.itemsize

    def flush(self) -> None:
        self._file.flush()

    def entry(self, number: int) -> tuple[int, ...]:
        """The fields of ENTRY for one example."""
        return ENTRY_STRUCT.unpack(self._file.read(number * ENTRY.itemsize, ENTRY.itemsize))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The rows of ENTRY of all examples, many at a time."""
        for first in range(0, self.count, BLOCK_ENTRIES):
            size = min(BLOCK_ENTRIES, self.count - first) * ENTRY.itemsize
            yield np.frombuffer(self._file.read(first * ENTRY.itemsize, size), ENTRY)

    def column(self, name: str) -> NDArray[Any]:
        """[examples] one field of all examples."""
        column, done = np.empty(self.count, ENTRY[name]), 0
        for block in self.blocks():
            column[done : done + len(block)] = block[name]
            done += len(block)
        return column

    def part(self, records: NDArray[np.bool_]) -> _Index:
        """The entries of some records, given by a flag for each."""
        part, seen = _Index(self._file.folder), 0
        for block in self.blocks():
            numbers = seen + np.cumsum(block["begins"], dtype=np.int64)  # [block] of the record of each, from 1
            part.append(block[records[numbers - 1]].tobytes())
            seen = int(numbers[-1])
        part.flush()
        return part


class ExampleCache(Sequence[Example]):
    """Examples that are appended once and then read in any order.

    folder  folder of the temporary files; by default the system's folder for them
    most    largest token id in any row, -1 if there are no tokens
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file, self._index, self.most = _CacheFile(folder), _Index(folder), -1

    def append(self, example: PackedExample, source: int = 0, *, continues: bool = False) -> None:
        """Add an example; `continues` if it comes from the same record as the previous one."""
        start = self._file.append(example.data)
        entry = start, len(example.data), example.tokens, example.labelled, source, not continues
        self._index.append(ENTRY_STRUCT.pack(*entry))
        self.most = max(self.most, example.most)

    def seal(self) -> None:
        """Flush the files: after the last `append`, so that a full disk is reported here, and before threads read."""
        self._file.flush()
        self._index.flush()

    def part(self, records: NDArray[np.bool_]) -> ExampleCache:
        """The examples of some of the records; its `most` is that of the whole.

        records  [records] a flag for each record that has examples
        """
        part = copy(self)
        vars(part).pop("_records", None)
        part._index = self._index.part(records)
        return part

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[examples] tokens of each example, counting shared prefixes once per row."""
        return self._index.column("tokens")

    @property
    def sources(self) -> NDArray[np.int64]:
        """[examples] index of the source of each example."""
        return self._index.column("source")

    @property
    def labelled(self) -> int:
        """Number of predictions with a loss, over all rows."""
        return sum(int(block["labelled"].sum()) for block in self._index.blocks())

    def tokens_of(self, index: int) -> int:
        """Tokens of one example, counting shared prefixes once per row."""
        return self._index.entry(index)[2]

    def siblings(self, index: int) -> range:
        """Indices of the examples made from the same record as example `index`, including itself."""
        number = int(np.searchsorted(self._records, index, side="right"))
        stop = self._records[number] if number < len(self._records) else len(self)
        return range(int(self._records[number - 1]), int(stop))

    @cached_property
    def _records(self) -> NDArray[np.int64]:
        """[records] the first example of each."""
        return np.flatnonzero(self._index.column("begins"))

    def __len__(self) -> int:
        return self._index.count

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # negative indices, and an IndexError beyond the ends
        start, size, *_ = self._index.entry(index)
        name, rows, about = pickle.loads(self._file.read(start, size))
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
