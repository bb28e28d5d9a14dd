"""Rows are the same whoever encodes them: this process, or several workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from chat_styles import byte_level, codec

from bottega.data.example_cache import ExampleCache
from bottega.errors import DataError, OutOfMemory
from bottega.hardware import memory
from bottega.objectives.sft import Sft
from bottega.recipe.schema import Recipe
from bottega.records import Chat, Message, Prompted, Record
from bottega.training import encoding
from bottega.training.dataset import EncodedRows, build_dataset
from bottega.training.encoding import ChunkEncoder, SidedRecord, count_workers, encode_all
from making import WORDS, write_jsonl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK_RECORDS", 3)


def records(count: int) -> Iterator[SidedRecord]:
    """Conversations and prompts; some with a field that the template ignores, some too long."""
    for number in range(count):
        where, text = f"rows line {number + 1}", "ab" * (1 + number % 9)
        more = {"mood": "x"} if number % 5 == 0 else {}
        chat = Chat(where, (Message("user", text, more=more), Message("assistant", "c" * (number % 4 + 1))))
        record: Record = Prompted(where, text, "c") if number % 3 else chat
        yield ("train" if number % 4 else "validation"), number % 2, record


def encoder(**options: Any) -> ChunkEncoder:
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    made = codec(byte_level(eos="</s>", merges=False, template=template), max_length=16, **options)
    return ChunkEncoder(lambda _: Sft(), made, drop=False)


def test_workers_make_the_same_of_the_rows() -> None:
    alone, together = (encoder(too_long="truncate") for _ in range(2))
    expected = list(encode_all(records(100), alone, 1))
    assert list(encode_all(records(100), together, 2)) == expected
    assert alone.codec.tally == together.codec.tally
    assert alone.codec.tally.truncated
    assert alone.codec.tally.unused_fields["mood"] == 7
    assert len(expected) == 100
    assert any(record.dropped for _, _, record in expected)


def test_datasets_are_the_same(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    rows = [{"prompt": f"the {a}", "completion": f" {b}"} for a in WORDS for b in WORDS]
    train = {"train": str(write_jsonl(tmp_path / "own.jsonl", rows)), "validation": 0.2}
    alone, together = (build_dataset(recipe(data=train, devices={"threads": threads})) for threads in (1, 2))
    for one, other in ((alone.train, together.train), (alone.validation, together.validation)):
        assert (one.rows, one.examples.labelled) == (other.rows, other.examples.labelled)
        assert [repr(example) for example in one.examples] == [repr(example) for example in other.examples]


@pytest.mark.parametrize("broken", [5, 40])
def test_an_error_comes_where_it_stands(broken: int) -> None:
    """After the rows before it, and before an error of the file that comes later."""

    def rows() -> Iterator[SidedRecord]:
        for index, sided in enumerate(islice(records(60), 50)):
            bad = Chat("rows line x", (Message("user", "a"), Message("tool", "b"), Message("assistant", "c")))
            yield (*sided[:2], bad) if index == broken else sided
        raise DataError("the file ends here")

    template = "{% for m in messages %}{{ raise_exception('no tools') if m.role == 'tool' }}{{ m.content }}{% endfor %}"
    refusing = ChunkEncoder(lambda _: Sft(), codec(byte_level(eos="</s>", merges=False, template=template)), drop=False)
    with pytest.raises(DataError, match="no tools") as caught:
        list(encode_all(rows(), refusing, 2))
    assert caught.value.where == "rows line x"
    refusing.drop = True
    encoded = []
    with pytest.raises(DataError, match="the file ends here"):
        encoded.extend(record for _, _, record in encode_all(rows(), refusing, 2))


class Holding(Prompted):
    """A record that cannot be sent to another process."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


def test_records_that_cannot_be_sent_are_encoded_here() -> None:
    rows = [("train", 0, Holding(f"line {number}", "ab", "c")) for number in range(40)]
    assert list(encode_all(iter(rows), encoder(), 2)) == list(encode_all(iter(rows), encoder(), 1))


def test_a_killed_worker_is_reported() -> None:
    def kill_worker(record: Record) -> Sft:
        if record.where == "rows line 50" and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return Sft()

    parent, encode = os.getpid(), encoder()
    encode.objective_of = kill_worker
    with pytest.raises(OutOfMemory, match="was killed"):
        list(encode_all(records(100), encode, 2))


def test_a_worker_that_is_killed_between_chunks_is_reported() -> None:
    encoded = encode_all(records(300), encoder(), 2)
    for _ in islice(encoded, 20):
        pass
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(OutOfMemory, match="was killed"):
        list(encoded)


COMPUTING = """
import torch
from test_encoding import encode_all, encoder, records
from bottega.objectives.sft import Sft

class Computing(Sft):
    def rows(self, record, codec):
        torch.ones(700, 700) @ torch.ones(700, 700)
        return super().rows(record, codec)

torch.set_num_threads(4)
torch.ones(700, 700) @ torch.ones(700, 700)
encode = encoder()
encode.objective_of = lambda _: Computing()
print(len(list(encode_all(records(2000), encode, 2))))
"""


def test_an_objective_that_computes_after_this_process_has() -> None:
    """In a process of its own: forked from one with other threads, it would wait for them for ever."""
    done = subprocess.run(
        [sys.executable, "-c", COMPUTING],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
    )
    assert done.stdout == "2000\n", done.stderr


class Strange(Exception):
    def __init__(self) -> None:
        super().__init__("strange")
        self.held = lambda: None


def test_errors_that_cannot_be_sent_keep_their_words() -> None:
    def fail(record: Record) -> Sft:
        if record.where == "rows line 50":
            raise Strange
        return Sft()

    encode = encoder()
    encode.objective_of = fail
    with pytest.raises(RuntimeError, match="Strange: strange"):
        list(encode_all(records(100), encode, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Prompted):
    """A record with a field that is given by name alone."""

    extra: str


class Loose(Prompted):
    """Derived without being a dataclass, with attributes of its own."""


def test_records_of_plugins_are_sent_whole() -> None:
    loose = Loose("1", "a", "b")
    object.__setattr__(loose, "extra", "c")
    for record in (Named(where="1", prompt="a", completion="b", extra="c"), loose):
        sent = pickle.loads(pickle.dumps(record))
        assert type(sent) is type(record)
        assert (sent.prompt, sent.completion, sent.extra) == ("a", "b", "c")


def test_workers_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    before = memory.peak_bytes()
    first = next(encoded := encode_all(records(200), encoder(), 2))
    assert first[0] == "validation"
    for _ in islice(encoded, 100):
        pass
    assert len(children()) == 2
    encoded.close()
    assert children() == []
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert memory.peak_bytes() < 1.5 * before, "workers share the memory of this process"


def children() -> list[str]:
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True)
    return [name for name in listed.stdout.split() if name != "ps"]


def test_counts() -> None:
    assert count_workers(1) == 1
    assert count_workers(3) == 3
    assert 1 <= count_workers(None) <= encoding.MAX_WORKERS == count_workers(100)
    rows = EncodedRows(ExampleCache())
    for _, source, record in encode_all(records(10), encoder(), 1):
        rows.add(record, source)
    assert (rows.rows, len(rows.examples) + rows.dropped.total()) == (10, 10)
