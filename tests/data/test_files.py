"""Files as rows: which reader a suffix chooses, texts, and files without rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import BOM, TEXTUAL, read, refused, rows

from bottega.data import files
from bottega.errors import DataError
from making import shared_data


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_an_empty_file_holds_no_rows(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"\n\n", b"\r\n", BOM, BOM + b"\n"):
        refused(tmp_path, f"rows{suffix}", content, "holds no rows")


def test_an_unreadable_file_is_a_data_error(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_a_text_is_one_row_as_it_is(tmp_path: Path, suffix: str) -> None:
    text = "\n  first\r\n\r\nsecond 🙂\u2028\n"
    assert rows(tmp_path, f"a{suffix}", text) == [(1, {"text": text})]
    assert rows(tmp_path, f"a{suffix}", BOM + text.encode()) == [(1, {"text": text})]


def test_lines_behind_a_broken_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    (tmp_path / "a.csv").write_text("text,label\na,b\nc\nd,e\n")
    for name, lines in (("a.jsonl", [1, 2, 3]), ("a.csv", [2, 3, 4])):
        found = list(files.read(tmp_path / name))
        assert [line for line, _ in found] == lines
        assert [isinstance(fields, DataError) for _, fields in found] == [False, True, False]


def test_a_long_text_becomes_documents_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "word " * 2000 + "\n\n"
    (tmp_path / "a.txt").write_text(paragraph * 2500)
    found = list(read(tmp_path / "a.txt"))
    assert "".join(fields["text"] for _, fields in found) == paragraph * 2500
    assert len(found) == 2
    assert all(fields["text"].endswith("\n\n") for _, fields in found)
    assert found[1][0] == found[0][1]["text"].count("\n") + 1


@pytest.mark.parametrize("name", ["tinyshakespeare/input.txt", "it_divina_commedia/divina_commedia.txt"])
def test_real_books(name: str) -> None:
    ((line, fields),) = read(shared_data(name))
    assert line == 1
    assert fields["text"].encode() == shared_data(name).read_bytes()
