"""Data sets: versions, rows at random, and what is said of a file that is partly damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bottega
from bottega.progress import ignore_status
from bottega.studio.datasets import DataSets


def rows_of(path: Path) -> list[tuple[str, dict[str, object]]]:
    return [(place, row) for place, row in bottega.read_rows([bottega.Source(path=str(path))])]  # type: ignore[misc]


def test_any_rows_are_found_again(tmp_path: Path) -> None:
    sets = DataSets(tmp_path)
    rows = [(f"row {number}", {"text": "è\n" * (number % 5), "n": number}) for number in range(1, 101)]
    version = sets.write("mine", rows, ("upload", {"file": "a.jsonl"}), ignore_status)
    assert (version.number, version.rows, version.fields) == (1, 100, {"text": "text", "n": "number"})
    assert [row["n"] for row in sets.rows("mine", 1, 0, 3)] == [1, 2, 3]
    assert [row["n"] for row in sets.rows("mine", None, 98, 50)] == [99, 100]
    assert sets.rows("mine", 1, 100, 5) == []
    assert sets.rows("mine", 1, 41, 1) == [{"text": "è\n" * 2, "n": 42}]
    assert version.size == sets.rows_path("mine").stat().st_size


def test_versions_stay_as_they_are(tmp_path: Path) -> None:
    sets = DataSets(tmp_path)
    for count in (3, 2):
        sets.write("mine", [("row", {"a": number}) for number in range(count)], ("upload", {}), ignore_status)
    assert [(version.number, version.rows) for version in sets.versions("mine")] == [(2, 2), (1, 3)]
    assert sets.names() == ["mine"]
    assert len(sets.rows("mine", 1, 0, 10)) == 3
    with pytest.raises(bottega.DataError, match="no such version"):
        sets.rows("mine", 3, 0, 1)
    sets.remove("mine")
    assert sets.names() == []


def test_damaged_lines_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnot json\n{"a": "two", "b": null}\n', encoding="utf-8")
    version = DataSets(tmp_path / "sets").write(
        "mine", bottega.read_rows([bottega.Source(path=str(path))]), ("upload", {}), ignore_status
    )
    assert (version.rows, version.bad) == (2, 1)
    assert "line 2" in version.errors[0]
    assert version.fields == {"a": "text", "b": "empty"}


def test_nothing_is_left_of_a_file_without_rows(tmp_path: Path) -> None:
    sets = DataSets(tmp_path)
    with pytest.raises(bottega.DataError, match="no rows"):
        sets.write("mine", [], ("upload", {}), ignore_status)
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_kept_readable(tmp_path: Path) -> None:
    """Half a character, and a value of another type."""
    sets = DataSets(tmp_path)
    sets.write("mine", [("row", {"text": "\ud800", "path": Path("x")})], ("upload", {}), ignore_status)
    assert sets.rows("mine", 1, 0, 1) == [{"text": "\ud800", "path": "x"}]
    assert json.loads(sets.rows_path("mine").read_bytes()) == {"text": "\ud800", "path": "x"}
    assert bottega.read_json(sets.rows_path("mine").with_name("version.json"))["rows"] == 1


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".a", "a" * 61, "à", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(bottega.DataError, match="not a name"):
        DataSets(tmp_path).versions(name)


def test_a_free_name_is_made_of_any_file_name(tmp_path: Path) -> None:
    sets = DataSets(tmp_path)
    assert sets.free_name("../Ticket è/2024", set()) == "Ticket-2024"
    sets.write("rows", [("row", {"a": 1})], ("upload", {}), ignore_status)
    assert (sets.free_name("rows", {"rows-2"}), sets.free_name("…", set())) == ("rows-3", "data")
