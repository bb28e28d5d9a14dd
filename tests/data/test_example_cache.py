"""Examples on disk come back as they were."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from bottega.batch import Example, Row
from bottega.data.example_cache import ExampleCache, pack_example
from bottega.errors import RunError


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def row(
    tokens: np.ndarray,
    at: np.ndarray,
    label: np.ndarray,
    weight: list[float],
    *,
    both_ways: bool = False,
    columns: dict[str, np.ndarray] | None = None,
) -> Row:
    return Row(tokens, at, label, np.array(weight, np.float32), both_ways, columns or {})


ROWS = {
    "an answer": row(ints(5, 6, 7, 8), ints(1, 2), ints(7, 8), [1, 1]),
    "a block": row(ints(5, 6, 7), ints(0, 1, 2), ints(6, 7, 70_000), [1, 1, 1]),
    "two answers": row(ints(5, 6, 7, 8, 9), ints(0, 3), ints(6, 9), [1, 0.5]),
    "a class": row(ints(5, 6), ints(0), ints(3), [1], both_ways=True),
    "a class that could be a token": row(ints(5, 6), ints(0), ints(6), [1], both_ways=True),
    "a number": row(ints(5, 6), ints(0), np.array([6.0], np.float32), [0.25]),
    "masked": row(ints(5, 6, 7), ints(0, 2), ints(9, 9), [1, 1], both_ways=True),
    "a large vocabulary": row(ints(1 << 40, 0), ints(0), ints(0), [1]),
    "columns": row(ints(5, 6), ints(0), ints(6), [1], columns={"reward": np.array([0.5])}),
    "long": row(np.arange(100_000), np.arange(99_999), np.arange(1, 100_000), [1] * 99_999),
}


def same(one: Row, other: Row) -> None:
    for name in ("tokens", "at", "label", "weight"):
        was, came = getattr(one, name), getattr(other, name)
        assert came.dtype == was.dtype, name
        np.testing.assert_array_equal(came, was)
    assert one.both_ways == other.both_ways
    assert {**one.columns} == {**other.columns}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_comes_back_as_it_was(name: str) -> None:
    shelf = ExampleCache()
    shelf.append(pack_example(Example("file line 1", (ROWS[name], ROWS["an answer"]))))
    shelf.seal()
    (example,) = shelf
    assert example.id == "file line 1"
    for came, was in zip(example.rows, (ROWS[name], ROWS["an answer"]), strict=True):
        same(was, came)


def test_a_shelf_is_a_sequence(tmp_path: Path) -> None:
    shelf = ExampleCache(tmp_path)
    for number, made in enumerate(ROWS.values()):
        shelf.append(pack_example(Example(f"line {number}", (made,))), number % 3)
    shelf.seal()
    assert len(shelf) == len(ROWS)
    assert [example.id for example in shelf[2:4]] == ["line 2", "line 3"]
    assert shelf[-1].id == f"line {len(ROWS) - 1}"
    assert shelf.tokens.tolist() == [len(made.tokens) for made in ROWS.values()]
    assert shelf.sources.tolist() == [number % 3 for number in range(len(ROWS))]
    assert shelf.most == 1 << 40
    assert shelf.labelled == sum(made.loss_count for made in ROWS.values())
    with pytest.raises(IndexError):
        shelf[len(ROWS)]
    assert not list(tmp_path.iterdir()), "the file has no name, so nothing is left behind"


def test_a_block_takes_little_more_than_its_tokens() -> None:
    shelf = ExampleCache()
    long = row(np.arange(30_000), np.arange(30_000), np.arange(1, 30_001), [1] * 30_000)
    shelf.append(pack_example(Example("a", (long,))))
    assert shelf._file.size < 30_000 * 2 + 500


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        shelf = ExampleCache(tmp_path)
        monkeypatch.setattr(shelf._file, "_file", full)
        shelf.append(pack_example(Example("a", (ROWS["an answer"],))))
        with pytest.raises(RunError, match="too full") as caught:
            shelf.seal()
        assert str(tmp_path) in str(caught.value.where)
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.flush()
        full.raw.close()


def test_parts_share_the_file() -> None:
    shelf = ExampleCache()
    for number in range(6):
        for index in range(number % 3 + 1):
            example = Example(f"line {number}", (ROWS["an answer"],))
            shelf.append(pack_example(example), number, continues=index > 0)
    shelf.seal()
    even, odd = (shelf.part(np.arange(6) % 2 == rest) for rest in (0, 1))
    assert shelf.siblings(1) == range(1, 3)
    del shelf
    gc.collect()
    assert [example.id for example in even] == ["line 0", "line 2", "line 2", "line 2", "line 4", "line 4"]
    assert even.sources.tolist() == [0, 2, 2, 2, 4, 4]
    assert even.siblings(2) == range(1, 4)
    assert odd.siblings(2) == range(2, 3)
    assert (len(odd), odd.labelled) == (6, 12)
    assert (odd.tokens > 0).all()
