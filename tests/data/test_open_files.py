"""Rows longer than any should be, in files that are not read line by line; and how rows of JSON are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_table_files import workbook

import bottega
from bottega.data import conll_files, open_files
from bottega.errors import DataError
from bottega.recipe.schema import Recipe
from bottega.training.preview import dry_run
from making import placed, write_jsonl

LONG = "x y " * (1 << 16)


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def dataset(path: Path, rows: list[dict[str, Any]]) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


def sheet(path: Path, rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("python_calamine")
    workbook(path, Rows=[list(rows[0]), *(list(row.values()) for row in rows)])


def in_an_object(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"version": 1, "data": rows}))


@pytest.mark.parametrize(
    ("name", "write", "row"),
    [
        ("rows.parquet", parquet, "row 2"),
        ("rows", dataset, "row 2"),
        ("rows.xlsx", sheet, "row 3"),
        ("rows.json", in_an_object, "row 2"),
    ],
)
def test_a_row_longer_than_any_should_be(
    name: str, write: Any, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / name, [{"text": "a", "n": "1"}, {"text": LONG, "n": "2"}])
    rows = placed(tmp_path / name)
    assert next(rows)[1]["text"] == "a"
    assert next(rows)[1]["text"].split() == LONG.split()
    monkeypatch.setattr(open_files, "MAX_ROW_CHARACTERS", 1 << 17)
    with pytest.raises(DataError, match="a row of more than 131,072 characters") as caught:
        list(placed(tmp_path / name))
    assert str(caught.value.where).endswith(f"{name} {row}")


def test_what_is_nested_in_a_row_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "MAX_ROW_CHARACTERS", 1 << 10)
    parquet(tmp_path / "a.parquet", [{"messages": [{"role": "user", "content": "x" * 100}] * 20}])
    with pytest.raises(DataError, match="a row of more than 1,024"):
        list(placed(tmp_path / "a.parquet"))


def test_a_cell_over_many_lines_is_found_too_long_before_the_file_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_files, "MAX_ROW_CHARACTERS", 1 << 10)
    (tmp_path / "a.csv").write_text('text,label\na,b\n"' + "x y\n" * 5000)
    with pytest.raises(DataError, match="field larger than field limit") as caught:
        list(placed(tmp_path / "a.csv"))
    assert str(caught.value.where).endswith("line 3")


def test_tokens_without_a_blank_line_between_are_no_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conll_files, "MAX_SENTENCE_TOKENS", 100)
    (tmp_path / "a.conll").write_text("x\tO\n" * 100 + "\n" + "y\tO\n" * 101)
    with pytest.raises(DataError, match="a sentence of more than 100 tokens") as caught:
        list(placed(tmp_path / "a.conll"))
    assert str(caught.value.where).endswith("a.conll line 102")
    assert "blank line" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('[{"n": 1}, {"n": 2}]', ["row 1", "row 2"]),
        ('\n[{"n": 1}, {"n": 2}]\n\n', ["row 1", "row 2"]),
        ('[{"n": 1},\n{"n": 2}]', ["line 1", "line 2"]),
        ('[\n  {\n    "n": 1\n  },\n  {\n    "n": 2\n  }\n]', ["line 2", "line 5"]),
        ('{"data": [{"n": 1},\n{"n": 2}]}', ["row 1", "row 2"]),
        ('{"n": [1, 2]}', ["row 1", "row 2"]),
        ('{"0": {"n": 1}, "1": {"n": 2}}', ["row 1", "row 2"]),
    ],
)
def test_rows_of_json_are_told_by_line_or_by_number(text: str, places: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert list(placed(tmp_path / "a.json")) == [(f"a.json {place}", {"n": n}) for n, place in enumerate(places, 1)]


def test_what_is_no_row_of_a_json_on_one_line_is_told_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"n": 1}, 2]')
    with pytest.raises(DataError, match="a JSON number where a row is expected") as caught:
        list(placed(tmp_path / "a.json"))
    assert str(caught.value.where).endswith("a.json row 2")


@pytest.mark.parametrize(("long", "told"), [(1, False), (2, True)])
def test_a_run_that_loses_more_than_a_fifth_of_its_rows_says_so_first(
    long: int, told: bool, llama: Path, tmp_path: Path
) -> None:
    answers = ["mat " * 200] * long + ["sat"] * (5 - long)
    rows = [{"prompt": f"the {number}", "completion": said} for number, said in enumerate(answers)]
    recipe = Recipe.parse(
        {
            "model": {"base": str(llama)},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "max_length": 32},
            "objective": {"kind": "sft"},
        }
    )
    notes = bottega.preview(recipe).notes
    assert bool(notes and "rows (40%) are not learned in full" in notes[0]) is told
    assert dry_run(recipe)["dropped"] == {"longer than max_length 32": long}
