"""Tables: text with delimiters, spreadsheets and Parquet, and the options that read them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow
import pytest
from data_files import BOM, layout_refused, layout_rows, lines_of, parsed, read, refused, rows, workbook
from pyarrow import parquet
from pydantic import ValidationError

from bottega.data import sources
from bottega.errors import DataError
from bottega.recipe.schema import Layout, Recipe, Source
from bottega.records import Labelled, Message, Text
from bottega.records.parser import parse_rows
from making import shared_data

# Tables


@pytest.mark.parametrize(("delimiter", "mark"), [(";", ";"), ("|", "|"), ("tab", "\t"), ("\\t", "\t")])
def test_a_delimiter_is_an_option(tmp_path: Path, delimiter: str, mark: str) -> None:
    content = f"text{mark}label\none, two{mark}1,5\n"
    assert layout_rows(tmp_path / "a.csv", content, delimiter=delimiter) == [{"text": "one, two", "label": "1,5"}]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    assert layout_rows(tmp_path / "a.csv", "good day,1\nbad day,0\n", header=False, columns=["text", "label"]) == [
        {"text": "good day", "label": "1"},
        {"text": "bad day", "label": "0"},
    ]
    assert len(layout_rows(tmp_path / "a.csv", columns=["text", "label"])) == 2, "names alone say that there is none"
    renamed = layout_rows(tmp_path / "a.csv", "a,b\nx,y\n", header=True, columns=["text", "label"])
    assert renamed == [{"text": "x", "label": "y"}]
    assert "data.columns has 3" in layout_refused(tmp_path / "a.csv", "a,b\n", columns=["a", "b", "c"]).what
    with pytest.raises(ValidationError, match=r"columns: \[text, label\]"):
        Layout(header=False)


def said(path: Path, content: str, *reads: type) -> DataError:
    """The error of a file's rows that no format fits."""
    path.write_text(content, encoding="utf-8")
    ((_, found),) = sources.open_sources([Source(path=str(path))])
    with pytest.raises(DataError) as caught:
        list(parse_rows(found, reads))
    return caught.value


def test_an_error_names_the_option_that_would_read_a_table(tmp_path: Path) -> None:
    assert "data.delimiter=';'" in str(said(tmp_path / "a.csv", "text;label\na;b\n", Labelled).fix)
    assert "data.delimiter=tab" in str(said(tmp_path / "a.csv", "text\tlabel\na\tb\n", Labelled).fix)
    assert "data.header=false" in str(said(tmp_path / "a.csv", "1,good day it is\n0,bad\n", Labelled).fix)
    assert "data.header=false" in str(said(tmp_path / "a.csv", "1,1\n0,1\n", Labelled).fix)
    assert "data.reader" in str(said(tmp_path / "a.txt", "good\t1\nbad\t0\n", Labelled).fix)


def test_a_table_of_many_columns_makes_a_short_error(tmp_path: Path) -> None:
    names = ",".join(f"column {number}" for number in range(10_000))
    error = said(tmp_path / "a.csv", f"{names}\n{names}\n", Labelled)
    assert len(str(error)) < 1000
    assert "column 9 … and 9990 more" in error.what
    wide = said(tmp_path / "a.csv", f"{'x' * 5000}\n1\n", Labelled)
    assert len(str(wide)) < 1000


def test_a_spreadsheet_is_read_as_its_csv_would_be(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    table = [["text", "label"], ["one", 1], [None, None], ["two", True], ["x", 0.5], ["y", None]]
    path = workbook(tmp_path / "a.xlsx", Rows=table, Empty=[])
    assert layout_rows(path) == [
        {"text": "one", "label": "1"},
        {"text": "two", "label": "true"},
        {"text": "x", "label": "0.5"},
        {"text": "y", "label": ""},
    ]
    ((_, found),) = sources.open_sources([Source(path=str(path))])
    assert [where for where, _ in found] == [f"a.xlsx row {number}" for number in (2, 4, 5, 6)]
    assert layout_rows(path, columns=["a", "b"])[0] == {"a": "text", "b": "label"}


def test_a_workbook_of_several_sheets_names_them(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    path = workbook(tmp_path / "a.xlsx", One=[["text"], ["a"]], Two=[["text"], ["b"]])
    with pytest.raises(DataError, match="several sheets") as caught:
        layout_rows(path)
    assert "One, Two" in str(caught.value.fix)
    assert layout_rows(path, field="Two") == [{"text": "b"}]
    assert "cannot read .xlsx" in layout_refused(tmp_path / "b.xlsx", b"PK").what


def test_the_package_for_spreadsheets_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "python_calamine", None)
    assert "bottega[spreadsheets]" in str(layout_refused(tmp_path / "a.xlsx", b"PK").fix)


# Recipes


def test_options_stand_in_data_and_in_each_source(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("één;x\n".encode("latin-1"))
    (tmp_path / "b.csv").write_bytes("één|y\n".encode("latin-1"))
    listed = [{"path": "a.csv"}, {"path": "b.csv", "delimiter": "|"}]
    data = {"train": listed, "encoding": "latin-1", "delimiter": ";", "columns": ["text", "label"]}
    document = {"model": {"base": "m"}, "objective": {"kind": "classify"}, "data": data}
    recipe = Recipe.parse(document, folder=tmp_path)
    found = [fields for _, placed in sources.open_sources(recipe.train_sources) for _, fields in placed]
    assert found == [{"text": "één", "label": "x"}, {"text": "één", "label": "y"}]
    assert Recipe.parse(recipe.document()).train_sources == recipe.train_sources, "as a resume reads it"


def test_keys_of_a_recipe_are_texts(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: {base: m}\ndata: {train: rows.jsonl}\nobjective: {kind: classify, weights: {10: 2.0, no: 3, 1.0: 4}}\n"
    )
    assert Recipe.load(tmp_path / "r.yaml").objective.weights == {"10": 2, "no": 3, "1": 4}
    changed = Recipe.load(tmp_path / "r.yaml", "objective.weights={0: 5, yes: 6}")
    assert changed.objective.weights == {"0": 5, "yes": 6}


# What a table's schema makes

TALK = {"role": "user", "content": "q"}


def test_nulls_that_a_schema_made_are_no_arguments(tmp_path: Path) -> None:
    rows_of = [
        {"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}], "calls": [{"a": "x"}]},
        {"tools": [{"name": "g", "parameters": {"properties": {"b": {"enum": ["1", None]}}}}], "calls": [{"b": 2}]},
        {"tools": [{"name": "h", "parameters": {"properties": {}}}], "calls": []},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows_of), tmp_path / "a.parquet")
    assert layout_rows(tmp_path / "a.parquet") == rows_of
    import datasets

    datasets.Dataset.from_list(rows_of).save_to_disk(str(tmp_path / "saved"))
    ((_, found),) = sources.open_sources([Source(path=str(tmp_path / "saved"))])
    assert [fields for _, fields in found] == rows_of


def test_a_parquet_file_names_its_classes(tmp_path: Path) -> None:
    import datasets

    named = datasets.ClassLabel(names=["no", "yes"])
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"]))
    spans = [{"start": datasets.Value("int32"), "end": datasets.Value("int32"), "label": named}]
    features = datasets.Features({"text": datasets.Value("string"), "label": named, "ner_tags": tags, "spans": spans})
    written = [
        {"text": "a", "label": 1, "ner_tags": [1, 0], "spans": [{"start": 0, "end": 1, "label": 0}]},
        {"text": "b", "label": -1, "ner_tags": [-1], "spans": []},
    ]
    expected = [
        {"text": "a", "label": "yes", "ner_tags": ["B-PER", "O"], "spans": [{"start": 0, "end": 1, "label": "no"}]},
        {"text": "b", "label": None, "ner_tags": [None], "spans": []},
    ]
    made = datasets.Dataset.from_list(written, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    made.save_to_disk(str(tmp_path / "saved"))
    assert layout_rows(tmp_path / "a.parquet") == expected
    for path in (tmp_path / "a.parquet", tmp_path / "saved"):
        ((_, found),) = sources.open_sources([Source(path=str(path))])
        dropped: list[DataError] = []
        kept = list(parse_rows(found, (Labelled,), on_bad=dropped.append))
        assert [record.label for record in kept if isinstance(record, Labelled)] == ["yes"]
        assert [error.what for error in dropped] == ["no label"]


def test_columns_of_json_are_decoded(tmp_path: Path) -> None:
    features = {"info": {"features": {"a": {"_type": "Json"}, "b": {"c": {"_type": "Json"}}}}}
    table = pyarrow.Table.from_pylist([{"a": '{"x": null}', "b": {"c": "[1]"}}, {"a": '"s"', "b": {"c": "broken"}}])
    table = table.replace_schema_metadata({b"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert layout_rows(tmp_path / "a.parquet") == [
        {"a": {"x": None}, "b": {"c": [1]}},
        {"a": "s", "b": {"c": "broken"}},
    ]


@pytest.mark.parametrize("content", ['{"text": "2024-01-01"}\n{"text": "2024-02-01"}\n', '[{"text": "2024-01-01"}]'])
def test_texts_that_look_like_dates_stay_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """The library that fetches datasets by name reads such a column of JSON as times."""
    (tmp_path / "dates").mkdir()
    (tmp_path / "dates" / "train.json").write_text(content)
    monkeypatch.chdir(tmp_path)
    ((_, found),) = sources.open_sources([Source(path="dates", split="train[:1]")])
    assert [(where, fields) for where, fields in found] == [("dates row 1", {"text": "2024-01-01"})]


def test_a_date_in_place_of_a_text_is_an_error(tmp_path: Path) -> None:
    import datetime

    parquet.write_table(pyarrow.table({"text": [datetime.datetime(2024, 1, 1)]}), tmp_path / "a.parquet")
    ((_, found),) = sources.open_sources([Source(path=str(tmp_path / "a.parquet"))])
    with pytest.raises(DataError, match="text is a date") as caught:
        list(parse_rows(found, (Text,)))
    assert "as text" in str(caught.value.fix)


def test_a_cell_may_hold_a_list(tmp_path: Path) -> None:
    talk = json.dumps([TALK, {"role": "assistant", "content": "a"}])
    quoted = talk.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages\n"{quoted}"\n')
    from bottega.records import Chat

    ((_, found),) = sources.open_sources([Source(path=str(tmp_path / "a.csv"))])
    (record,) = parse_rows(found, (Chat,))
    assert isinstance(record, Chat)
    assert record.messages == (Message("user", "q"), Message("assistant", "a"))


def test_a_whole_number_is_one_label_in_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,1\nbad,0\nfair,1.0\n")
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1.0, None]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text('{"text": "c", "label": 0}\n')
    dropped: list[DataError] = []
    labels = []
    for _, found in sources.open_sources(
        [Source(path=str(tmp_path / name)) for name in ("a.csv", "b.parquet", "c.jsonl")]
    ):
        kept = parse_rows(found, (Labelled,), on_bad=dropped.append)
        labels += [record.label for record in kept if isinstance(record, Labelled)]
    assert labels == ["1", "0", "1", "1", "0"]
    assert [error.where for error in dropped] == ["b.parquet row 2, field label"]


# Commands


@pytest.fixture
def odd_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes("".join(f"één kaart {n};{n % 2}\n" for n in range(20)).encode("latin-1"))
    return path


READ = ["--read", "encoding=latin-1", "--read", "data.delimiter=;", "--read", "columns=[text, label]"]


def test_options_on_the_command_line(odd_file: Path) -> None:
    from typer.testing import CliRunner

    from bottega.cli.commands import app

    run = CliRunner().invoke
    refused = run(app, ["audit", str(odd_file), "--only", "labels"])
    assert refused.exit_code == 2
    assert "data.encoding=latin-1" in refused.stderr
    found = run(app, ["audit", str(odd_file), *READ, "--only", "labels", "--json"])
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["rows"] == 20
    out = odd_file.with_suffix(".yaml")
    assert run(app, ["init", str(odd_file), *READ, "--out", str(out)]).exit_code == 0
    recipe = Recipe.load(out)
    assert (recipe.data.encoding, recipe.data.delimiter, recipe.data.columns) == ("latin-1", ";", ["text", "label"])
    for wrong in ("encodin=x", "header=false", "delimiter=ab"):
        refused = run(app, ["audit", str(odd_file), "--read", wrong])
        assert refused.exit_code == 2
        assert "--read" in refused.stderr


def test_the_layout_holds_for_files_of_the_same_suffix() -> None:
    layout = Source(path="a.csv", encoding="latin-1")
    assert layout.for_file("b.csv", ["a.csv"]) == Layout(encoding="latin-1")
    assert layout.for_file("b.jsonl", ["a.csv"]) == Layout()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables(tmp_path: Path, name: str, tab: str, bom: bytes, end: str) -> None:
    lines = ["text,label", '"a, ""b""",c', "", '"two', 'lines",🙂', "", "", " x ,", '"three', "", 'more", y']
    text = end.join(lines).replace(",", tab) + end
    assert rows(tmp_path, name, bom + text.encode()) == [
        (2, {"text": f'a{tab} "b"', "label": "c"}),
        (4, {"text": f"two{end}lines", "label": "🙂"}),
        (8, {"text": " x ", "label": ""}),
        (9, {"text": f"three{end}{end}more", "label": " y"}),
    ]


def test_a_table_that_does_not_end_its_last_line(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", "a\nb\nc") == [(2, {"a": "b"}), (3, {"a": "c"})]


def test_a_header_over_two_lines(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", '"a\nb",c\n1,2\n') == [(3, {"a\nb": "1", "c": "2"})]


def test_blank_lines_before_the_header(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", "\n\na,b\n1,2\n") == [(4, {"a": "1", "b": "2"})]


def test_what_csv_writes_is_read_back(tmp_path: Path) -> None:
    values = [["a", "b"], ['"', "\n"], ["", ","], ["\r\n", '",\n"'], [" ", "🙂\u2028x"]]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(values)
    found = rows(tmp_path, "a.csv", buffer.getvalue())
    assert [list(fields.values()) for _, fields in found] == values[1:]
    assert [line for line, _ in found] == [2, 4, 5, 8]


def test_rows_of_another_width_name_their_line(tmp_path: Path) -> None:
    error = refused(tmp_path, "a.csv", 'a,b\n"1\n1",2\n\n3,4,5\n', "3 columns where the header has 2")
    assert str(error.where).endswith("line 5")
    error = refused(tmp_path, "a.csv", "a,b\n1\n", "1 columns where the header has 2")
    assert str(error.where).endswith("line 2")


def test_a_header_alone_holds_no_rows(tmp_path: Path) -> None:
    refused(tmp_path, "a.csv", "a,b\n", "holds no rows")


def test_a_long_field_is_read(tmp_path: Path) -> None:
    """The csv module alone stops at 131072 characters."""
    long = "x" * 200_000
    assert rows(tmp_path, "a.csv", f'text,label\n"{long}",y\n') == [(2, {"text": long, "label": "y"})]


def test_a_quote_that_never_closes_is_a_data_error(tmp_path: Path) -> None:
    """Else every row behind it would silently become part of one field."""
    error = refused(tmp_path, "a.csv", 'text,label\na,b\nhello,"c\nd\ne\n', "quote|end of data")
    assert "line 3" in str(error.where)


def test_two_columns_of_one_name_are_a_data_error(tmp_path: Path) -> None:
    refused(tmp_path, "a.csv", "text,text\na,b\n", "text")


def test_parquet(tmp_path: Path) -> None:
    written = [{"text": "à", "turns": [{"role": "user", "content": "x"}], "n": number} for number in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(written), tmp_path / "a.parquet")
    assert list(read(tmp_path / "a.parquet")) == list(enumerate(written, 1))
    data = (tmp_path / "a.parquet").read_bytes()
    refused(tmp_path, "b.parquet", data[: len(data) // 2], "cannot be read")


@pytest.mark.parametrize(("name", "count"), [("banking77/test.csv", 3080), ("banking77/train.csv", 10003)])
def test_real_tables(name: str, count: int) -> None:
    found, lines = list(read(shared_data(name))), lines_of(name)
    assert len(found) == count
    categories = set(json.loads(shared_data("banking77/categories.json").read_text()))
    for line, row in found:
        assert row["category"] in categories
        first = row["text"].replace('"', '""').split("\n")[0].rstrip("\r")
        assert lines[line - 1].lstrip('"').startswith(first)
    assert any("\n" in row["text"] for _, row in found)


def test_columns_without_names_or_content_are_no_columns_named_alike(tmp_path: Path) -> None:
    assert parsed(tmp_path / "a.csv", "text,label,,\nx,a,,\n", Labelled) == [Labelled("a.csv line 2", "x", "a")]
