"""JSON: an object a line, a list of rows, or the rows within one object, each with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_files import BOM, SPAM, layout_refused, layout_rows, lines_of, parsed, read, refused, rows

from bottega.data.files import CHUNK
from bottega.errors import DataError
from bottega.records import Labelled
from making import placed, shared_data


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


def test_one_object_per_line_in_a_json_file(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.json", '{"a": 1}\n\n {"a": 2}\n') == [(1, {"a": 1}), (3, {"a": 2})]
    assert rows(tmp_path, "a.json", '{"a":\n [{"b": 1}]}\n') == [(1, {"b": 1})]


def test_an_empty_json_list_holds_no_rows(tmp_path: Path) -> None:
    refused(tmp_path, "a.json", "[ \n ]", "holds no rows")


def test_json_that_is_no_list_of_rows(tmp_path: Path) -> None:
    refused(tmp_path, "a.json", '{"data": []}', "a JSON object where a list of rows is expected")
    error = refused(tmp_path, "a.json", '[{"a": 1},\n[2]]', "a JSON list where a row is expected")
    assert str(error.where).endswith("line 2")
    error = refused(tmp_path, "a.json", '[{"a": 1},\n{"a" 2}]', "broken JSON: Expecting ':' delimiter at column 6")
    assert str(error.where).endswith("line 2")
    refused(tmp_path, "a.json", '{"a": 1} {"a": 2}\n', "broken JSON: Extra data")


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
    assert layout_rows(tmp_path / "a.json", json.dumps(value), field=field) == SPAM


def test_several_lists_of_rows_are_named(tmp_path: Path) -> None:
    error = layout_refused(tmp_path / "a.json", json.dumps({"train": SPAM, "test": SPAM}))
    assert "train, test" in error.what
    assert "data.field=train" in str(error.fix)
    error = layout_refused(tmp_path / "a.json", json.dumps({"deep": {"rows": SPAM}, "n": 1}))
    assert "data.field=deep.rows" in str(error.fix)
    error = layout_refused(tmp_path / "a.json", json.dumps({"train": SPAM}), field="rows")
    assert "there is train" in str(error.fix)


@pytest.mark.parametrize(
    "value",
    [
        {"data": SPAM, "version": "1"},
        {"notes": [{"n": 1}], "rows": SPAM},
        {"only": SPAM},
        {"text": ["één kaart", "twee"], "label": ["spam", "ham"]},
        {"text": {"0": "één kaart", "1": "twee"}, "label": {"0": "spam", "1": "ham"}},
        {"0": SPAM[0], "1": SPAM[1]},
        {"columns": ["text", "label"], "index": [0, 1], "data": [["één kaart", "spam"], ["twee", "ham"]]},
    ],
    ids=["data", "rows beside others", "one list", "columns", "pandas", "pandas by index", "pandas split"],
)
def test_objects_that_hold_rows(tmp_path: Path, value: Any) -> None:
    assert layout_rows(tmp_path / "a.json", json.dumps(value)) == SPAM


def test_rows_that_are_lists(tmp_path: Path) -> None:
    listed = [["één kaart", "spam"], ["twee", "ham"]]
    lines = "".join(json.dumps(row) + "\n" for row in listed)
    for name, content in (("a.json", json.dumps(listed)), ("a.jsonl", lines)):
        assert layout_rows(tmp_path / name, content, columns=["text", "label"]) == SPAM
        assert "data.columns" in str(layout_refused(tmp_path / name, content).fix)
        layout_refused(tmp_path / name, content, columns=["text"])
    headed = json.dumps([["text", "label"], *listed])
    assert layout_rows(tmp_path / "a.json", headed, header=True) == SPAM


def test_json_under_another_suffix(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in SPAM)
    assert layout_rows(tmp_path / "a.json", lines) == SPAM
    assert layout_rows(tmp_path / "a.json", reader="jsonl") == SPAM
    assert "data.reader=json" in str(layout_refused(tmp_path / "a.jsonl", json.dumps(SPAM, indent=1)).fix)
    assert layout_rows(tmp_path / "a.jsonl", reader="json") == SPAM
    error = layout_refused(tmp_path / "train.data", lines)
    assert "set data.reader to what it holds (text|jsonl|" in str(error.fix)
    assert layout_rows(tmp_path / "train.data", reader="jsonl") == SPAM


def test_a_list_of_rows_in_a_jsonl_file_names_the_option(tmp_path: Path) -> None:
    rows = '[{"text": "x", "label": "a"}]\n'
    with pytest.raises(DataError) as caught:
        parsed(tmp_path / "a.jsonl", rows, Labelled)
    assert "data.reader=json" in str(caught.value.fix)
    assert parsed(tmp_path / "a.jsonl", rows, Labelled, reader="json") == [Labelled("a.jsonl row 1", "x", "a")]


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
def test_rows_of_json_are_located_by_line_or_by_number(text: str, places: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert list(placed(tmp_path / "a.json")) == [(f"a.json {place}", {"n": n}) for n, place in enumerate(places, 1)]


def test_an_invalid_element_on_one_line_is_located_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"n": 1}, 2]')
    with pytest.raises(DataError, match="a JSON number where a row is expected") as caught:
        list(placed(tmp_path / "a.json"))
    assert str(caught.value.where).endswith("a.json row 2")


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


def test_real_questions() -> None:
    found = list(read(shared_data("xquad_en/xquad.en.json")))
    assert len(found) == 1190
    assert len({row["context"] for _, row in found}) == 240
    assert all(row["answers"][0]["text"] in row["context"] for _, row in found)


def test_a_real_file_that_holds_no_rows() -> None:
    with pytest.raises(DataError, match="a JSON string where a row is expected"):
        list(read(shared_data("banking77/categories.json")))
