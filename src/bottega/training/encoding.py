"""Records → encoded examples, in their order: the first in this process, and long data in several.

`encode_record` is the work on one record. `encode_all` gives chunks of records to worker processes, keeps a few chunks
on their way, and hands the results over in the order of the records, so that what is made of them does not depend on
the number of workers.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from bottega.batch import Example
from bottega.data.example_cache import PackedExample, pack_example
from bottega.data.split import Side
from bottega.errors import OutOfMemory
from bottega.hardware import memory
from bottega.hardware.other_programs import usable_cores
from bottega.hardware.process import end_with_parent
from bottega.objectives import Objective
from bottega.records import Record, Unusable
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec
from bottega.tokenization.tally import Tally

# A record with its side of the split and the index of its source.
SidedRecord = tuple[Side, int, Record]

# Records encoded at once: this many, or as many as have this many characters.
CHUNK_RECORDS, CHUNK_CHARACTERS = 256, 1 << 20

# Chunks encoded in this process before workers are started, which takes as long as encoding some hundred records.
FIRST_CHUNKS = 4

# With more workers, this process would read no faster than they encode.
MAX_WORKERS = 6

# Chunks on their way to each worker and back.
CHUNKS_AHEAD = 3


class EncodedRecord(NamedTuple):
    """The examples made of a record, packed.

    dropped    why there are none; None if there are
    truncated  how many texts or rows of it were cut
    """

    examples: Sequence[PackedExample]
    dropped: str | None
    truncated: int


class EncodedChunk(NamedTuple):
    """The records of a chunk, encoded, and what the codec found out about them."""

    records: Sequence[EncodedRecord]
    tally: Tally


def encode_record(record: Record, objective: Objective, codec: Codec, *, drop: bool = False) -> EncodedRecord:
    """The examples of a record; none if it is unusable.

    drop  make no example of a record that the chat template refuses, instead of raising a DataError
    """
    rows, dropped = [], None
    with codec.track_truncation() as truncation:
        try:
            rows = objective.rows(record, codec)
        except Unusable as unusable:
            dropped = unusable.reason
        except ChatTemplateError as refused:
            if not drop:
                raise
            dropped = refused.what
    names = [record.where] if len(rows) == 1 else [f"{record.where} block {index + 1}" for index in range(len(rows))]
    about = objective.metadata(record) if rows else {}
    examples = [pack_example(Example(name, row, about)) for name, row in zip(names, rows, strict=True)]
    return EncodedRecord(examples, dropped, truncation.count)


class ChunkEncoder:
    """Encodes chunks of records, each record for the objective that `objective_of` returns for it."""

    def __init__(self, objective_of: Callable[[Record], Objective], codec: Codec, *, drop: bool) -> None:
        self.objective_of, self.codec, self.drop = objective_of, codec, drop

    def __call__(self, records: Sequence[Record]) -> EncodedChunk:
        with self.codec.precomputed(self.codec.encode_ahead(records)):
            encoded = [
                encode_record(record, self.objective_of(record), self.codec, drop=self.drop) for record in records
            ]
        return EncodedChunk(encoded, self.codec.tally.take())


def encode_all(
    records: Iterator[SidedRecord], encode: ChunkEncoder, workers: int
) -> Iterator[tuple[Side, int, EncodedRecord]]:
    """Yield (side, index of the source, encoded record) in order; an error comes where it stands among the records.

    Afterwards the codec's tally has counted all records. One thread must take them all, since workers end with the
    thread that started them.

    workers  processes to encode in, once the data turns out to be long
    """
    tally = Tally()
    for (chunk, failure), encoded in _encode_chunks(_chunks(records), encode, workers):
        tally.add(encoded.tally)
        for (side, source, _), record in zip(chunk, encoded.records, strict=True):
            yield side, source, record
        if failure is not None:
            raise failure
    encode.codec.tally.add(tally)


# Records, and the error that took the place of the next one.
Chunk = tuple[Sequence[SidedRecord], Exception | None]


def _chunks(records: Iterator[SidedRecord]) -> Iterator[Chunk]:
    """The records in chunks; an error ends them."""
    chunk, size = list[SidedRecord](), 0
    failure: Exception | None = None
    try:
        for record in records:
            chunk.append(record)
            size += sum(len(text) for text, _ in record[2].texts_to_encode())
            if len(chunk) == CHUNK_RECORDS or size >= CHUNK_CHARACTERS:
                yield chunk, None
                chunk, size = [], 0
    except Exception as error:
        # Kept until the rows before it are encoded: an error in one of those comes first, as in the file.
        failure = error
    if chunk or failure:
        yield chunk, failure


def _encode_chunks(chunks: Iterator[Chunk], encode: ChunkEncoder, workers: int) -> Iterator[tuple[Chunk, EncodedChunk]]:
    for chunk in islice(chunks, FIRST_CHUNKS if can_fork(workers) else None):
        yield chunk, encode([record for _, _, record in chunk[0]])
    following = next(chunks, None)
    if following is None:
        return
    with _workers(encode, workers) as submit:
        waiting = deque[tuple[Chunk, Callable[[], EncodedChunk]]]()
        while following is not None or waiting:
            if following is not None:
                waiting.append((following, submit([record for _, _, record in following[0]])))
                following = next(chunks, None)
            if following is None or len(waiting) > CHUNKS_AHEAD * workers:
                chunk, result = waiting.popleft()
                yield chunk, result()


# Worker processes


def count_workers(threads: int | None) -> int:
    """The number of worker processes for a configured number of threads; None: as many as there are cores."""
    return min(threads or len(usable_cores()), MAX_WORKERS)


def can_fork(workers: int) -> bool:
    """Whether workers can be started, and would be faster than this process alone."""
    # Forked, a worker shares this process's libraries and tokenizer; started anew, it would import them for seconds and
    # run the user's script again. On macOS, its system libraries do not survive a fork.
    return workers > 1 and sys.platform == "linux" and not multiprocessing.current_process().daemon


@contextmanager
def _workers(encode: ChunkEncoder, workers: int) -> Iterator[Callable[[Sequence[Record]], Callable[[], EncodedChunk]]]:
    """Start worker processes; yields the function that sends records to one and returns how to get the result."""
    with _single_threaded_tokenizers():
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin_worker, (encode, os.getpid()))
        # All workers are forked by the first call, before the pool has threads of its own.
        pool.submit(int)

    def submit(records: Sequence[Record]) -> Callable[[], EncodedChunk]:
        try:
            data = pickle.dumps(records, protocol=5)
        except (pickle.PicklingError, TypeError, AttributeError):  # a record class of a plugin may hold anything
            encoded = encode(records)
            return lambda: encoded
        with _broken_pool_as_out_of_memory():
            future = pool.submit(_encode_in_worker, data)
        return lambda: _result(future)

    try:
        yield submit
    except BaseException:
        # What they are at does not matter any more, and may take any time. (`kill_workers` from Python 3.14 on.)
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        memory.leave_out_ended_children()


def _result(future: Future[bytes]) -> EncodedChunk:
    with _broken_pool_as_out_of_memory():
        encoded: EncodedChunk = pickle.loads(future.result())
    return encoded


@contextmanager
def _broken_pool_as_out_of_memory() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise OutOfMemory(
            "a process that encoded rows was killed, as the system does when memory is short",
            where="data",
            fix="encode in one process: devices.threads=1",
        ) from None


@contextmanager
def _single_threaded_tokenizers() -> Iterator[None]:
    """Processes that are forked inside the `with` block run their tokenizers in one thread."""
    # The threads of a tokenizers library that was used before do not exist in a forked process.
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


_encode: ChunkEncoder | None = None


def _begin_worker(encode: ChunkEncoder, parent: int) -> None:
    global _encode
    _encode = encode
    # What was there before lives as long as the worker: the collector would search it, and copy its pages by doing so.
    gc.freeze()
    end_with_parent(parent)
    if (torch := sys.modules.get("torch")) is not None:  # an objective of a plugin may compute with it
        # The threads that torch has computed with do not exist here: a second one would be waited for without end.
        torch.set_num_threads(1)
    # An interrupt from the keyboard reaches all processes; the one that started the workers ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _encode_in_worker(data: bytes) -> bytes:
    assert _encode is not None
    try:
        encoded = _encode(pickle.loads(data))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error of a plugin may hold anything
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise
    # As bytes: the pool would otherwise pickle in a thread that competes with the one that reads.
    return pickle.dumps(encoded, protocol=5)
