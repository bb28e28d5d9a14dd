"""Files → rows, with the line each stands on."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from bottega.data import files
from bottega.data.files import CHUNK, COMPRESSED, READERS
from bottega.errors import DataError
from making import shared_data

BOM = b"\xef\xbb\xbf"
TEXTUAL = [suffix for suffix in READERS if suffix != ".parquet"]


def read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file; the error of a line that is none is raised."""
    for line, fields in files.read(path):
        if isinstance(fields, DataError):
            raise fields
        yield line, fields


def rows(folder: Path, name: str, content: str | bytes) -> list[tuple[int, dict[str, Any]]]:
    """(line, fields) of every row of a file with this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(path))


def refused(folder: Path, name: str, content: str | bytes, what: str) -> DataError:
    with pytest.raises(DataError, match=what) as caught:
        rows(folder, name, content)
    assert caught.value.where is not None
    assert str(folder / name) in caught.value.where
    assert caught.value.fix
    return caught.value


# Any file


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_an_empty_file_holds_no_rows(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"\n\n", b"\r\n", BOM, BOM + b"\n"):
        refused(tmp_path, f"rows{suffix}", content, "holds no rows")


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_what_is_not_utf8_names_its_line(tmp_path: Path, suffix: str) -> None:
    error = refused(tmp_path, f"rows{suffix}", b'{"a": "b"}\n{"a": "\xe9"}\n', "not UTF-8: byte 0xe9")
    assert str(error.where).endswith("line 2")
    assert "iconv" in str(error.fix)


def test_what_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="a folder"):
        list(read(tmp_path))
    refused(tmp_path, "rows.parquet", b"PAR1", "cannot be read")
    refused(tmp_path, "rows.xlsx", b"PK", "cannot read .xlsx")
    refused(tmp_path, "rows", b"text", "a file without suffix")


@pytest.mark.parametrize("name", ["a.TXT", "a.Jsonl", "a.JSON", "a.CSV"])
def test_suffixes_in_any_case(tmp_path: Path, name: str) -> None:
    content = {"a.TXT": "x", "a.Jsonl": '{"text": "x"}', "a.JSON": '[{"text": "x"}]', "a.CSV": "text\nx\n"}[name]
    assert [fields for _, fields in rows(tmp_path, name, content)] == [{"text": "x"}]


# Text


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_a_text_is_one_row_as_it_is(tmp_path: Path, suffix: str) -> None:
    text = "\n  first\r\n\r\nsecond 🙂\u2028\n"
    assert rows(tmp_path, f"a{suffix}", text) == [(1, {"text": text})]
    assert rows(tmp_path, f"a{suffix}", BOM + text.encode()) == [(1, {"text": text})]


# JSON lines


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", BOM])
def test_json_lines(tmp_path: Path, end: str, bom: bytes) -> None:
    lines = ['{"a": 1}', "", '  {"a": [2, {"b": null}]}  ', " \t", "", '{"a": "é\\n🙂"}']
    expected = [(1, {"a": 1}), (3, {"a": [2, {"b": None}]}), (6, {"a": "é\n🙂"})]
    for last in (end, "", end * 3):
        assert rows(tmp_path, "a.jsonl", bom + (end.join(lines) + last).encode()) == expected
        assert rows(tmp_path, "a.ndjson", bom + (end.join(lines) + last).encode()) == expected


def test_only_a_line_feed_ends_a_json_line(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    line = json.dumps({"a": text.replace("\x0b", "")}, ensure_ascii=False)
    assert rows(tmp_path, "a.jsonl", f"{line}\n{line}\n") == [(n, {"a": text.replace("\x0b", "")}) for n in (1, 2)]


def test_broken_json_lines_name_line_and_column(tmp_path: Path) -> None:
    error = refused(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": }\n', "broken JSON: Expecting value at column 7")
    assert str(error.where).endswith("a.jsonl line 3")
    refused(tmp_path, "a.jsonl", '{"a": 1} {"a": 2}\n', "Extra data")


@pytest.mark.parametrize(
    ("value", "kind"), [("[1]", "list"), ('"x"', "string"), ("7", "number"), ("null", "null"), ("true", "bool")]
)
def test_a_json_line_is_an_object(tmp_path: Path, value: str, kind: str) -> None:
    error = refused(tmp_path, "a.jsonl", f'{{"a": 1}}\n{value}\n', f"a JSON {kind}.* where a row is expected")
    assert str(error.where).endswith("line 2")


def test_rows_before_a_broken_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{')
    found = read(tmp_path / "a.jsonl")
    assert next(found) == (1, {"a": 1})
    with pytest.raises(DataError):
        next(found)


# JSON

VALUES: list[dict[str, Any]] = [
    {"a": 1},
    {"a": [[1, 2], [], [{"b": ["],[", "[{"]}]]},
    {},
    {"text": 'two\nlines [, ] { } " \\ é 🙂'},
    {"a": {"b": {"c": [None, True, 1e9]}}},
]


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lists_name_the_line_a_row_starts_on(tmp_path: Path, indent: Any, end: str, bom: bytes) -> None:
    text = "\n \n" + json.dumps(VALUES, indent=indent, ensure_ascii=False) + "\n\n"
    found = rows(tmp_path, "a.json", bom + text.replace("\n", end).encode())
    assert [fields for _, fields in found] == VALUES
    lines = text.split("\n")
    if indent is None:  # all stand on one line, which tells nothing
        assert [number for number, _ in found] == list(range(1, len(VALUES) + 1))
        return
    for line, fields in found:
        start = json.dumps(fields)[: 1 if fields else 2]
        assert start in lines[line - 1]
    if indent == 2:
        starts = [number for number, line in enumerate(lines, 1) if line.startswith("  {")]
        assert [line for line, _ in found] == starts


def test_json_rows_where_they_start(tmp_path: Path) -> None:
    text = '[{"a":\n1},{"a": 2}\n\n,\n\n  {"a": 3}, {\n"a": 4}\n]'
    assert rows(tmp_path, "a.json", text) == [(1, {"a": 1}), (2, {"a": 2}), (6, {"a": 3}), (6, {"a": 4})]


def test_an_empty_json_list_holds_no_rows(tmp_path: Path) -> None:
    refused(tmp_path, "a.json", "[ \n ]", "holds no rows")


def test_json_that_is_no_list_of_rows(tmp_path: Path) -> None:
    refused(tmp_path, "a.json", '{"data": []}', "a JSON object where a list of rows is expected")
    error = refused(tmp_path, "a.json", '[{"a": 1},\n[2]]', "a JSON list where a row is expected")
    assert str(error.where).endswith("line 2")
    error = refused(tmp_path, "a.json", '[{"a": 1},\n{"a" 2}]', "broken JSON: Expecting ':' delimiter at column 6")
    assert str(error.where).endswith("line 2")
    refused(tmp_path, "a.json", '{"a": 1}\n{"a": 2}\n', "broken JSON: Extra data")


# Tables


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


def test_lines_behind_a_broken_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    (tmp_path / "a.csv").write_text("text,label\na,b\nc\nd,e\n")
    for name, lines in (("a.jsonl", [1, 2, 3]), ("a.csv", [2, 3, 4])):
        found = list(files.read(tmp_path / name))
        assert [line for line, _ in found] == lines
        assert [isinstance(fields, DataError) for _, fields in found] == [False, True, False]


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


# CoNLL


def test_a_sentence_is_a_row(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- O O\n\nThe DT O\nNile NNP B-river\n\n\nIt PRP O"
    expected = [(3, {"tokens": ["The", "Nile"], "tags": ["O", "B-river"]}), (7, {"tokens": ["It"], "tags": ["O"]})]
    assert rows(tmp_path, "a.conll", content) == expected


def test_a_line_of_white_space_parts_sentences(tmp_path: Path) -> None:
    content = "New York\tB-place\n\t\n#here\tO\r\n"
    expected = [(1, {"tokens": ["New York"], "tags": ["B-place"]}), (3, {"tokens": ["#here"], "tags": ["O"]})]
    assert rows(tmp_path, "a.conll", content) == expected


def test_a_token_without_a_tag_names_its_line(tmp_path: Path) -> None:
    assert str(refused(tmp_path, "a.conll", "a\tO\nb\n", "without a tag").where).endswith("line 2")


# Parquet


def test_parquet(tmp_path: Path) -> None:
    written = [{"text": "à", "turns": [{"role": "user", "content": "x"}], "n": number} for number in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(written), tmp_path / "a.parquet")
    assert list(read(tmp_path / "a.parquet")) == list(enumerate(written, 1))
    data = (tmp_path / "a.parquet").read_bytes()
    refused(tmp_path, "b.parquet", data[: len(data) // 2], "cannot be read")


# Compression


def packed(name: str, data: bytes) -> bytes:
    if name.endswith(".zst"):
        return bytes(pyarrow.compress(data, "zstd", asbytes=True))
    return (gzip if name.endswith(".gz") else bz2).compress(data)


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("suffix", TEXTUAL)
def test_compressed_files_read_as_plain_ones(tmp_path: Path, suffix: str, compression: str) -> None:
    content = {".json": '[{"a": "1"},\n{"a": "é"}]', ".csv": "a\n1\né\n", ".tsv": "a\n1\né\n"}.get(suffix)
    content = content or (
        "a\tO\n\né\tO\n" if suffix in (".conll", ".bio", ".annotated") else '{"a": "1"}\n{"a": "é"}\n'
    )
    plain = rows(tmp_path, f"a{suffix}", content)
    name = f"a{suffix}{compression}"
    assert rows(tmp_path, name, packed(name, content.encode())) == plain


@pytest.mark.parametrize("compression", COMPRESSED)
def test_a_damaged_archive_is_a_data_error(tmp_path: Path, compression: str) -> None:
    name = f"a.jsonl{compression}"
    data = packed(name, b"".join(b'{"a": "%d"}\n' % (number**3) for number in range(50_000)))
    refused(tmp_path, name, data[: len(data) // 2], "cannot be read|broken JSON")
    refused(tmp_path, name, b"no archive at all", "cannot be read")


# Large files


def test_a_long_list_is_read_in_pieces(tmp_path: Path) -> None:
    """Rows that lie over the borders of the pieces, and one longer than a piece, come out whole with their lines."""
    written = [{"n": number, "text": '\\u00e9"\\ é🙂,' * (number % 700)} for number in range(300)]
    written[150]["text"] = "x" * 300_000
    for indent, lines in ((None, list(range(1, 301))), (1, [2 + 4 * number for number in range(300)])):
        text = json.dumps(written, indent=indent, ensure_ascii=False)
        assert len(text) > 10 * CHUNK
        assert rows(tmp_path, "a.json", text) == list(zip(lines, written, strict=True))


@pytest.mark.parametrize(
    ("end", "what"),
    [
        ("", "Expecting"),
        (', {"a": 1]', "Expecting"),
        (', {"a": "b', "Unterminated"),
        ("] x", "Extra data"),
        (' {"a": 1}]', "Expecting ',' delimiter"),
        (", ]", "Expecting|Illegal trailing comma"),
        (", ,]", "Expecting"),
    ],
)
def test_a_list_broken_late_names_the_line(tmp_path: Path, end: str, what: str) -> None:
    good = ",\n".join(json.dumps({"a": "é" * 50}) for _ in range(3000))
    error = refused(tmp_path, "a.json", f"[{good}\n{end}", what)
    assert str(error.where).endswith(("line 3000", "line 3001"))


def test_a_long_text_becomes_documents_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "word " * 2000 + "\n\n"
    (tmp_path / "a.txt").write_text(paragraph * 2500)
    found = list(read(tmp_path / "a.txt"))
    assert "".join(fields["text"] for _, fields in found) == paragraph * 2500
    assert len(found) == 2
    assert all(fields["text"].endswith("\n\n") for _, fields in found)
    assert found[1][0] == found[0][1]["text"].count("\n") + 1


# Bytes no text holds


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.md"])
def test_a_nul_byte_is_no_text(tmp_path: Path, name: str) -> None:
    assert str(refused(tmp_path, name, "a,b\nc,\0d\n", "NUL").where).endswith("line 2")


# Real files


def lines_of(name: str) -> list[str]:
    return shared_data(name).read_text(encoding="utf-8").split("\n")


@pytest.mark.parametrize(
    ("name", "count", "fields"),
    [
        ("gsm8k/test.jsonl", 1319, {"question", "answer"}),
        ("arc_easy/arc_easy.jsonl", 2376, {"choices", "query"}),
        ("scitldr_a/dev.jsonl", 619, {"source", "target"}),
    ],
)
def test_real_json_lines(name: str, count: int, fields: set[str]) -> None:
    found = list(read(shared_data(name)))
    assert len(found) == count
    lines = lines_of(name)
    for line, row in found:
        assert fields <= set(row)
        assert json.loads(lines[line - 1]) == row


@pytest.mark.parametrize(
    "name",
    ["rasbt_instruct_1100/instruction-data.json", "rasbt_preference_1100/instruction-data-with-preference.json"],
)
def test_real_json(name: str) -> None:
    found, lines = list(read(shared_data(name))), lines_of(name)
    assert len(found) == 1100
    starts = [number for number, line in enumerate(lines, 1) if line.strip() == "{"]
    assert [line for line, _ in found] == starts
    for (_, row), start in zip(found, starts, strict=True):
        assert f'"instruction": {json.dumps(row["instruction"])}' in lines[start]


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


@pytest.mark.parametrize("name", ["tinyshakespeare/input.txt", "it_divina_commedia/divina_commedia.txt"])
def test_real_books(name: str) -> None:
    ((line, fields),) = read(shared_data(name))
    assert line == 1
    assert fields["text"].encode() == shared_data(name).read_bytes()


@pytest.mark.parametrize(
    ("name", "count"), [("wnut17train.conll", 3394), ("emerging.dev.conll", 1009), ("emerging.test.annotated", 1287)]
)
def test_real_tags(name: str, count: int) -> None:
    found = list(read(shared_data(f"wnut17/{name}")))
    assert len(found) == count
    assert all(len(row["tokens"]) == len(row["tags"]) for _, row in found)
    assert {tag[:2] for _, row in found for tag in row["tags"]} == {"O", "B-", "I-"}


def test_real_questions() -> None:
    found = list(read(shared_data("xquad_en/xquad.en.json")))
    assert len(found) == 1190
    assert len({row["context"] for _, row in found}) == 240
    assert all(row["answers"][0]["text"] in row["context"] for _, row in found)


def test_a_real_file_that_holds_no_rows() -> None:
    with pytest.raises(DataError, match="a JSON string where a row is expected"):
        list(read(shared_data("banking77/categories.json")))
