"""Sources → rows: files, folders, slices, datasets, and how they are mixed."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest

from bottega.data import sources
from bottega.errors import DataError
from bottega.recipe.schema import Source

ROWS = [{"n": str(number)} for number in range(10)]


def found(*given: Source | Path, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    made = [source if isinstance(source, Source) else Source(path=str(source), **options) for source in given]
    return list(chain.from_iterable(rows for _, rows in sources.open_sources(made)))


def numbers(*given: Source | Path, **options: Any) -> list[int]:
    return [int(fields["n"]) for _, fields in found(*given, **options)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


# Files and folders


def test_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n')
    (tmp_path / "b.csv").write_text("n\n3\n")
    expected = [("a.jsonl line 1", {"n": 1}), ("a.jsonl line 3", {"n": 2}), ("b.csv line 2", {"n": "3"})]
    assert found(tmp_path / "a.jsonl", tmp_path / "b.csv") == expected


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text('{"n": 1}\n')
    places = [where for where, _ in found(tmp_path / "one" / "a.jsonl", tmp_path / "two" / "a.jsonl")]
    assert places == ["one/a.jsonl line 1", "two/a.jsonl line 1"]


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.jsonl").write_text('{"n": 2}')
    (tmp_path / "in" / "a.csv").write_text("n\n1\n")
    (tmp_path / "in" / "deep" / "c.json").write_text('[{"n": 3}]')
    (tmp_path / "in" / ".hidden.csv").write_text("n\n4\n")
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    assert numbers(tmp_path / "in") == [1, 2, 3]
    assert [where for where, _ in found(tmp_path / "in")][-1] == "in/deep/c.json row 1"
    read = sources.source_files(Source(path=str(tmp_path / "in")))
    assert [path.name for path in read] == ["a.csv", "b.jsonl", "c.json"]


def test_a_folder_without_rows_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file that can be read"):
        found(tmp_path)


# Slices


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, range(10)),
        ("train", range(10)),
        ("train[:4]", range(4)),
        ("train[4:6]", range(4, 6)),
        ("train[8:]", range(8, 10)),
        ("train[:80%]", range(8)),
        ("train[-3:]", range(7, 10)),
        ("train[-30%:-10%]", range(7, 9)),
        ("train[25%:75%]", range(2, 8)),
        ("train[:2]+train[8:]", [0, 1, 8, 9]),
        ("train[5:400]", range(5, 10)),
    ],
)
def test_slices_are_those_of_datasets(file: Path, split: str | None, expected: Any) -> None:
    assert numbers(file, split=split) == list(expected)
    theirs = datasets.Dataset.from_list(ROWS)
    instruction = datasets.ReadInstruction.from_spec(split or "train").to_absolute({"train": len(theirs)})
    assert [n for part in instruction for n in range(part.from_ or 0, part.to)] == list(expected)


@pytest.mark.parametrize(
    ("split", "what"),
    [
        ("train[10:]", "holds no rows"),
        ("train[5:5]", "holds no rows"),
        ("train[6:2]", "holds no rows"),
        ("test", "no split test"),
        ("train[:", "not a slice"),
        ("train[a:b]", "not a slice"),
        ("[:4]", "not a slice"),
        ("", "holds no rows|not a slice"),
    ],
)
def test_a_slice_of_nothing_is_a_data_error(file: Path, split: str, what: str) -> None:
    if split:
        with pytest.raises(DataError, match=what):
            found(file, split=split)


def test_a_slice_reads_no_further_than_it_must(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\nbroken\n')
    assert numbers(tmp_path / "a.jsonl", split="train[:2]") == [1, 2]


# Datasets


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:2])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_dataset_on_disk(saved: Path) -> None:
    assert numbers(saved) == list(range(10))
    assert numbers(saved, split="test") == [0, 1]
    assert numbers(saved, split="train[-20%:]") == [8, 9]
    assert found(saved, split="train[4:]")[0][0] == "saved row 5"
    assert {path.suffix for path in sources.source_files(Source(path=str(saved)))} == {".arrow"}
    with pytest.raises(DataError, match="validation"):
        found(saved, split="validation")


def test_a_single_split_on_disk(tmp_path: Path) -> None:
    labels = datasets.Features({"n": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = [{**row, "label": number % 2} for number, row in enumerate(ROWS)]
    datasets.Dataset.from_list(rows, features=labels).save_to_disk(str(tmp_path / "one"))
    assert numbers(tmp_path / "one", split="train[:3]") == [0, 1, 2]
    assert [fields["label"] for _, fields in found(tmp_path / "one")][:2] == ["no", "yes"], "classes go by their names"


@pytest.mark.parametrize("stream", [False, True])
def test_a_dataset_by_name(file: Path, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """A folder without a leading slash is loaded as a name is, through `load_dataset`."""
    monkeypatch.chdir(file.parent.parent)
    monkeypatch.setenv("HF_HOME", str(file.parent))
    assert numbers(Source(path=file.parent.name, split="train[2:5]", stream=stream)) == [2, 3, 4]


def test_a_stream_has_no_end_to_count_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent.parent)
    with pytest.raises(DataError, match="cannot be sliced from its end"):
        found(Source(path=file.parent.name, split="train[:50%]", stream=True))


def test_an_unknown_dataset_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no such dataset on the hub"):
        found(Source(path="nobody/nothing"))
