"""Opening files: compression, encodings, and rows that are too long."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from data_files import SPAM, TEXTUAL, layout_refused, layout_rows, refused, rows, workbook
from pydantic import ValidationError

from bottega.data import files, open_files
from bottega.data.files import COMPRESSED
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from making import placed

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


def test_nested_texts_count_towards_the_length_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".txt", ".tsv"])
def test_an_encoding_is_an_option(tmp_path: Path, suffix: str, encoding: str) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SPAM)
    table = "text,label\néén kaart,spam\ntwee,ham\n"
    content = {".csv": table, ".tsv": table.replace(",", "\t"), ".jsonl": lines, ".txt": "één"}.get(suffix)
    content = content or json.dumps(SPAM, ensure_ascii=False)
    expected = [{"text": "één"}] if suffix == ".txt" else SPAM
    assert layout_rows(tmp_path / f"a{suffix}", content.encode(encoding), encoding=encoding) == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    """As Excel writes Unicode text."""
    data = "text\tlabel\r\néén kaart\tspam\r\ntwee\tham\r\n".encode(encoding)
    assert layout_rows(tmp_path / "a.tsv", data) == SPAM
    assert layout_rows(tmp_path / "a.tsv", data, encoding=encoding.removesuffix("-sig")) == SPAM


def test_an_error_names_the_encoding_that_would_read_it(tmp_path: Path) -> None:
    error = layout_refused(tmp_path / "a.csv", "text,label\néén,x\n".encode("latin-1"))
    assert "data.encoding=latin-1" in str(error.fix)
    error = layout_refused(tmp_path / "a.jsonl", '{"text": "a"}\n'.encode("utf-16-le"))
    assert "data.encoding=utf-16-le" in str(error.fix)
    error = layout_refused(tmp_path / "a.csv", b"text\n\xff\xfe\n", encoding="ascii")
    assert "not ascii" in error.what
    layout_refused(tmp_path / "a.csv", b"abc", encoding="utf-16")
    with pytest.raises(ValidationError, match="encoding"):
        Layout(encoding="rot13")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="a pipe or a device"):
        list(files.read(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_bytes_that_are_not_utf8_name_their_line(tmp_path: Path, suffix: str) -> None:
    error = refused(tmp_path, f"rows{suffix}", b'{"a": "b"}\n{"a": "\xe9"}\n', "not UTF-8: byte 0xe9")
    assert str(error.where).endswith("line 2")
    assert "iconv" in str(error.fix)


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


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.md"])
def test_a_nul_byte_is_no_text(tmp_path: Path, name: str) -> None:
    assert str(refused(tmp_path, name, "a,b\nc,\0d\n", "NUL").where).endswith("line 2")
