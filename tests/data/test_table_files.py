"""Files that do not say how they are laid out, and the options that read them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from bottega.data import files, sources
from bottega.errors import DataError
from bottega.recipe.schema import Layout, Recipe, Source
from bottega.records import Labelled, Message, Tagged, Text
from bottega.records.parser import parse_rows

SPAM = [{"text": "één kaart", "label": "spam"}, {"text": "twee", "label": "ham"}]


def rows(path: Path, content: str | bytes | None = None, **layout: Any) -> list[dict[str, Any]]:
    """The rows of a file with this content, the error of a row raised."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = [fields for _, fields in files.read(path, Layout(**layout))]
    for fields in found:
        if isinstance(fields, DataError):
            raise fields
    return [fields for fields in found if isinstance(fields, dict)]


def refused(path: Path, content: str | bytes, **layout: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        rows(path, content, **layout)
    assert str(path) in str(caught.value.where)
    return caught.value


# Encodings


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".txt", ".tsv"])
def test_an_encoding_is_an_option(tmp_path: Path, suffix: str, encoding: str) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SPAM)
    table = "text,label\néén kaart,spam\ntwee,ham\n"
    content = {".csv": table, ".tsv": table.replace(",", "\t"), ".jsonl": lines, ".txt": "één"}.get(suffix)
    content = content or json.dumps(SPAM, ensure_ascii=False)
    expected = [{"text": "één"}] if suffix == ".txt" else SPAM
    assert rows(tmp_path / f"a{suffix}", content.encode(encoding), encoding=encoding) == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    """As Excel writes Unicode text."""
    data = "text\tlabel\r\néén kaart\tspam\r\ntwee\tham\r\n".encode(encoding)
    assert rows(tmp_path / "a.tsv", data) == SPAM
    assert rows(tmp_path / "a.tsv", data, encoding=encoding.removesuffix("-sig")) == SPAM


def test_an_error_names_the_encoding_that_would_read_it(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.csv", "text,label\néén,x\n".encode("latin-1"))
    assert "data.encoding=latin-1" in str(error.fix)
    error = refused(tmp_path / "a.jsonl", '{"text": "a"}\n'.encode("utf-16-le"))
    assert "data.encoding=utf-16-le" in str(error.fix)
    error = refused(tmp_path / "a.csv", b"text\n\xff\xfe\n", encoding="ascii")
    assert "not ascii" in error.what
    refused(tmp_path / "a.csv", b"abc", encoding="utf-16")
    with pytest.raises(ValidationError, match="encoding"):
        Layout(encoding="rot13")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="a pipe or a device"):
        list(files.read(tmp_path / "a.jsonl"))


# Tables


@pytest.mark.parametrize(("delimiter", "mark"), [(";", ";"), ("|", "|"), ("tab", "\t"), ("\\t", "\t")])
def test_a_delimiter_is_an_option(tmp_path: Path, delimiter: str, mark: str) -> None:
    content = f"text{mark}label\none, two{mark}1,5\n"
    assert rows(tmp_path / "a.csv", content, delimiter=delimiter) == [{"text": "one, two", "label": "1,5"}]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", "good day,1\nbad day,0\n", header=False, columns=["text", "label"]) == [
        {"text": "good day", "label": "1"},
        {"text": "bad day", "label": "0"},
    ]
    assert len(rows(tmp_path / "a.csv", columns=["text", "label"])) == 2, "names alone say that there is none"
    renamed = rows(tmp_path / "a.csv", "a,b\nx,y\n", header=True, columns=["text", "label"])
    assert renamed == [{"text": "x", "label": "y"}]
    assert "data.columns has 3" in refused(tmp_path / "a.csv", "a,b\n", columns=["a", "b", "c"]).what
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


# JSON


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"meta": {"n": 2}, "result": {"rows": SPAM}}, "result.rows"),
        ({"train": SPAM, "test": SPAM[:1]}, "train"),
        ({"a.b": SPAM, "c": SPAM[:1]}, "a.b"),
        ({"all": {"text": ["één kaart", "twee"], "label": ["spam", "ham"]}}, "all"),
        ([{"row": row, "row_idx": number} for number, row in enumerate(SPAM)], "row"),
    ],
)
def test_rows_under_a_key(tmp_path: Path, value: Any, field: str) -> None:
    assert rows(tmp_path / "a.json", json.dumps(value), field=field) == SPAM


def test_several_lists_of_rows_are_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.json", json.dumps({"train": SPAM, "test": SPAM}))
    assert "train, test" in error.what
    assert "data.field=train" in str(error.fix)
    error = refused(tmp_path / "a.json", json.dumps({"deep": {"rows": SPAM}, "n": 1}))
    assert "data.field=deep.rows" in str(error.fix)
    error = refused(tmp_path / "a.json", json.dumps({"train": SPAM}), field="rows")
    assert "there is train" in str(error.fix)


@pytest.mark.parametrize(
    "value",
    [
        {"data": SPAM, "version": "1"},
        {"only": SPAM},
        {"text": ["één kaart", "twee"], "label": ["spam", "ham"]},
        {"text": {"0": "één kaart", "1": "twee"}, "label": {"0": "spam", "1": "ham"}},
        {"0": SPAM[0], "1": SPAM[1]},
        {"columns": ["text", "label"], "index": [0, 1], "data": [["één kaart", "spam"], ["twee", "ham"]]},
    ],
    ids=["data", "one list", "columns", "pandas", "pandas by index", "pandas split"],
)
def test_objects_that_hold_rows(tmp_path: Path, value: Any) -> None:
    assert rows(tmp_path / "a.json", json.dumps(value)) == SPAM


def test_rows_that_are_lists(tmp_path: Path) -> None:
    listed = [["één kaart", "spam"], ["twee", "ham"]]
    lines = "".join(json.dumps(row) + "\n" for row in listed)
    for name, content in (("a.json", json.dumps(listed)), ("a.jsonl", lines)):
        assert rows(tmp_path / name, content, columns=["text", "label"]) == SPAM
        assert "data.columns" in str(refused(tmp_path / name, content).fix)
        refused(tmp_path / name, content, columns=["text"])
    headed = json.dumps([["text", "label"], *listed])
    assert rows(tmp_path / "a.json", headed, header=True) == SPAM


def test_a_json_by_another_name(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in SPAM)
    assert "data.reader=jsonl" in str(refused(tmp_path / "a.json", lines).fix)
    assert rows(tmp_path / "a.json", reader="jsonl") == SPAM
    assert "data.reader=json" in str(refused(tmp_path / "a.jsonl", json.dumps(SPAM, indent=1)).fix)
    assert rows(tmp_path / "a.jsonl", reader="json") == SPAM
    error = refused(tmp_path / "train.data", lines)
    assert "set data.reader to what it holds (text|jsonl|" in str(error.fix)
    assert rows(tmp_path / "train.data", reader="jsonl") == SPAM


# CoNLL

SENTENCES = "-DOCSTART- -X- O O\n\nMara NNP B-PER\nran VB O\n\nBern NNP B-LOC\n"


@pytest.mark.parametrize("suffix", [".txt", ".tsv", ".iob", ".conll"])
def test_conll_is_known_by_what_it_holds(tmp_path: Path, suffix: str) -> None:
    expected = [{"tokens": ["Mara", "ran"], "tags": ["B-PER", "O"]}, {"tokens": ["Bern"], "tags": ["B-LOC"]}]
    assert rows(tmp_path / f"a{suffix}", SENTENCES.replace(" NNP ", "\t").replace(" VB ", "\t")) == expected
    assert rows(tmp_path / f"a{suffix}", SENTENCES) == expected
    assert rows(tmp_path / "eng.train", SENTENCES, reader="conll") == expected


def test_what_only_looks_like_conll_is_text(tmp_path: Path) -> None:
    for content in ("A word O\nanother line\nO\n", "name\tO\nMara\tO-1\n", "I am O\n"):
        assert rows(tmp_path / "a.txt", content) == [{"text": content}]


def test_a_no_break_space_belongs_to_its_token(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.conll", "Sum O\n10\u00a0000 B-NUM\nkroner  O \n") == [
        {"tokens": ["Sum", "10\u00a0000", "kroner"], "tags": ["O", "B-NUM", "O"]}
    ]


def tagged(path: Path, content: str, **options: Any) -> list[Tagged]:
    path.write_text(content, encoding="utf-8")
    ((_, found),) = sources.open_sources([Source(path=str(path), **options)])
    return [record for record in parse_rows(found, (Tagged,)) if isinstance(record, Tagged)]


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("a O\nb O\n\nc O\nd PER-B\n", 5, "tag 'PER-B'"),
        ("a O\nb X-PER\n", 2, "tag 'X-PER'"),
        ("a O\nb B-\n", 2, "tag 'B-'"),
        ("a\tO\n\u00a0\tO\n", 2, "empty tokens"),
        ("a O\nb\n", 2, "a token without a tag"),
    ],
)
def test_what_is_wrong_with_a_tag_is_told_by_its_own_line(tmp_path: Path, content: str, line: int, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        tagged(tmp_path / "a.conll", content)
    assert f"line {line}" in str(caught.value.where)


def test_sentences_that_are_none_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Mara B-PER\n\na\tO\n\u00a0\tO\n\nb\n\nBern S-LOC\n")
    dropped: list[DataError] = []
    ((_, found),) = sources.open_sources([Source(path=str(tmp_path / "a.conll"))])
    kept = list(parse_rows(found, (Tagged,), on_bad=dropped.append))
    assert [record.text for record in kept if isinstance(record, Tagged)] == ["Mara", "Bern"]
    assert len(dropped) == 2


def test_columns_of_conll_may_be_named(tmp_path: Path) -> None:
    (record,) = tagged(tmp_path / "a.conll", "B-PER Mara x\nO ran x\n", columns=["tags", "tokens", "more"])
    assert (record.text, record.spans[0].label) == ("Mara ran", "PER")
    with pytest.raises(DataError, match="no columns called tokens and tags"):
        tagged(tmp_path / "a.conll", "a O\n", columns=["word", "tag"])


def test_lines_that_tell_of_a_sentence_are_no_tokens(tmp_path: Path) -> None:
    (record,) = tagged(tmp_path / "a.conll", "# id 7\tdomain=en\nMara _ _ B-PER\n#1 _ _ O\n")
    assert record.text == "Mara #1"


# Spreadsheets


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """A minimal .xlsx, written by hand: inline strings, numbers, booleans."""
    import zipfile

    head = '<?xml version="1.0" encoding="UTF-8"?>'
    spread = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"

    def cell(place: str, value: Any) -> str:
        if isinstance(value, bool):
            return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'
        return "" if value is None else f'<c r="{place}"><v>{value}</v></c>'

    def sheet(table: list[list[Any]]) -> str:
        lines = "".join(
            f'<row r="{y}">{"".join(cell(f"{chr(64 + x)}{y}", value) for x, value in enumerate(row, 1))}</row>'
            for y, row in enumerate(table, 1)
        )
        return f'{head}<worksheet xmlns="{spread}"><sheetData>{lines}</sheetData></worksheet>'

    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(sheets, 1))
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{office}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    kinds = '<Default Extension="xml" ContentType="application/xml"/>'
    kinds += '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("[Content_Types].xml", f'{head}<Types xmlns="{package}/content-types">{kinds}</Types>')
        begin = f'<Relationship Id="rId1" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
        book.writestr("_rels/.rels", f'{head}<Relationships xmlns="{package}/relationships">{begin}</Relationships>')
        book.writestr(
            "xl/workbook.xml",
            f'{head}<workbook xmlns="{spread}" xmlns:r="{office}"><sheets>{listed}</sheets></workbook>',
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'{head}<Relationships xmlns="{package}/relationships">{related}</Relationships>',
        )
        for number, table in enumerate(sheets.values(), 1):
            book.writestr(f"xl/worksheets/sheet{number}.xml", sheet(table))
    return path


def test_a_spreadsheet_is_read_as_its_csv_would_be(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    table = [["text", "label"], ["one", 1], [None, None], ["two", True], ["x", 0.5], ["y", None]]
    path = workbook(tmp_path / "a.xlsx", Rows=table, Empty=[])
    assert rows(path) == [
        {"text": "one", "label": "1"},
        {"text": "two", "label": "true"},
        {"text": "x", "label": "0.5"},
        {"text": "y", "label": ""},
    ]
    ((_, found),) = sources.open_sources([Source(path=str(path))])
    assert [where for where, _ in found] == [f"a.xlsx row {number}" for number in (2, 4, 5, 6)]
    assert rows(path, columns=["a", "b"])[0] == {"a": "text", "b": "label"}


def test_a_workbook_of_several_sheets_names_them(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    path = workbook(tmp_path / "a.xlsx", One=[["text"], ["a"]], Two=[["text"], ["b"]])
    with pytest.raises(DataError, match="several sheets") as caught:
        rows(path)
    assert "One, Two" in str(caught.value.fix)
    assert rows(path, field="Two") == [{"text": "b"}]
    assert "cannot read .xlsx" in refused(tmp_path / "b.xlsx", b"PK").what


def test_what_reads_spreadsheets_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "python_calamine", None)
    assert "bottega[spreadsheets]" in str(refused(tmp_path / "a.xlsx", b"PK").fix)


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
    assert rows(tmp_path / "a.parquet") == rows_of
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
    assert rows(tmp_path / "a.parquet") == expected
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
    assert rows(tmp_path / "a.parquet") == [{"a": {"x": None}, "b": {"c": [1]}}, {"a": "s", "b": {"c": "broken"}}]


@pytest.mark.parametrize("content", ['{"text": "2024-01-01"}\n{"text": "2024-02-01"}\n', '[{"text": "2024-01-01"}]'])
def test_texts_that_look_like_dates_stay_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """The library that fetches datasets by name reads such a column of JSON as times."""
    (tmp_path / "dates").mkdir()
    (tmp_path / "dates" / "train.json").write_text(content)
    monkeypatch.chdir(tmp_path)
    ((_, found),) = sources.open_sources([Source(path="dates", split="train[:1]")])
    assert [(where, fields) for where, fields in found] == [("dates row 1", {"text": "2024-01-01"})]


def test_a_date_in_place_of_a_text_is_told(tmp_path: Path) -> None:
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


def test_other_files_are_laid_out_so_where_their_names_end_alike() -> None:
    layout = Source(path="a.csv", encoding="latin-1")
    assert layout.for_file("b.csv", ["a.csv"]) == Layout(encoding="latin-1")
    assert layout.for_file("b.jsonl", ["a.csv"]) == Layout()
