"""Formats to choose from, and the first rows as one of them reads them."""

from __future__ import annotations

from pathlib import Path

from bottega.planning.row_formats import row_examples, row_formats
from bottega.recipe.schema import Source
from making import write_jsonl


def test_every_format_is_described() -> None:
    formats = {format.name: format for format in row_formats()}
    assert next(iter(formats)) == "messages"
    assert formats["preference"].required == ["chosen", "rejected"]
    assert "prompt" in formats["preference"].optional
    assert {"dpo", "orpo"} <= set(formats["preference"].objectives)
    assert "classify" in formats["labelled"].objectives
    assert all(format.objectives for format in formats.values())


def test_the_format_of_the_first_row_is_found(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"query": "2 + 2?", "answer": "4", "level": 1}] * 8)
    found = row_examples(Source(path=str(path)), 3)
    assert (found.format, found.fields, found.ignored) == (
        "question",
        {"question": "query", "answer": "answer"},
        ["level"],
    )
    assert [(example.prompt, example.answer, example.error) for example in found.examples] == [
        ("2 + 2?", "4", None)
    ] * 3


def test_a_mapping_names_the_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"Sentence text": "it works", "kind": "good"}])
    found = row_examples(Source(path=str(path), format="labelled", mapping={"text": "Sentence text", "label": "kind"}))
    assert found.fields == {"text": "Sentence text", "label": "kind"}
    assert [(example.prompt, example.answer) for example in found.examples] == [("it works", "good")]


def test_a_row_that_does_not_fit_says_why(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a"}, {"prompt": 3, "completion": "b"}]
    found = row_examples(Source(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))))
    right, missing, wrong = found.examples
    assert right.error is None
    assert missing.error is not None
    assert "no field completion" in missing.error[0]
    assert wrong.error is not None
    assert "prompt is a number" in wrong.error[0]


def test_rows_of_no_known_format_are_no_error(tmp_path: Path) -> None:
    found = row_examples(Source(path=str(write_jsonl(tmp_path / "rows.jsonl", [{"a": "x"}, {"a": "y"}]))))
    assert found.format is None
    assert found.fields == {}
    assert all(example.error and example.error[1] for example in found.examples)


def test_a_line_that_is_damaged_is_shown_as_such(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n{"text": "b"}\n', encoding="utf-8")
    found = row_examples(Source(path=str(path)))
    assert [bool(example.error) for example in found.examples] == [False, True, False]
