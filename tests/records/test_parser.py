"""Rows become records in the format of the first row or of the recipe; invalid rows are dropped or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parsed_rows import BOT, ROWS, SFT, SPOKEN, TALK, USER, one, parse, refused

from bottega.errors import DataError, RecipeError
from bottega.records import (
    Chat,
    Choice,
    Labelled,
    Preference,
    Prompted,
    Tagged,
    Text,
)
from bottega.records.formats import format_names, load_format
from bottega.records.parser import parse_rows
from making import placed, shared_data


def test_the_format_of_the_first_row_holds_for_all() -> None:
    assert [type(record) for record in parse([{"text": "a"}, {"text": "b", "messages": TALK}])] == [Text, Text]


@pytest.mark.parametrize("name", format_names())
def test_a_later_row_without_a_field_is_a_data_error(name: str) -> None:
    for field in ROWS[name]:
        short = {key: value for key, value in ROWS[name].items() if key != field}
        with pytest.raises(DataError, match=field) as caught:
            parse([ROWS[name], short], load_format(name).record, format=name)
        assert str(caught.value.where).startswith("file line 2")
        with pytest.raises(DataError, match="no field"):
            parse([ROWS[name], {}], load_format(name).record)


def test_unsound_rows_may_be_left_out() -> None:
    found: list[DataError] = []
    rows = [{"text": "a"}, {"text": ""}, {"text": 7}, {"txt": "b"}, {"text": "c"}]
    kept = parse(rows, Text, on_bad=found.append)
    assert kept == [Text("file line 1", "a"), Text("file line 5", "c")]
    assert [error.where for error in found] == [f"file line {line}, field text" for line in (2, 3, 4)]


def test_an_unsound_first_row_may_be_left_out() -> None:
    found: list[DataError] = []
    kept = parse([{"text": " "}, {"text": "a"}], Text, on_bad=found.append)
    assert kept == [Text("file line 2", "a")]
    assert [error.where for error in found] == ["file line 1, field text"]


def test_a_recipe_error_is_never_left_out() -> None:
    with pytest.raises(RecipeError):
        parse([ROWS["text"]], Chat, format="text", on_bad=lambda error: None)


# Mapping


def test_fields_are_renamed() -> None:
    fields = {"question": "q", "answer": "a", "id": 7}
    assert one(fields, mapping={"prompt": "question", "completion": "answer"}) == Prompted("file line 1", "q", "a")
    assert one(fields, mapping={"instruction": "question", "output": "answer"}).messages == SPOKEN


def test_fields_may_be_exchanged() -> None:
    fields = {"prompt": "a", "completion": "q"}
    swapped = one(fields, mapping={"prompt": "completion", "completion": "prompt"})
    assert swapped == Prompted("file line 1", "q", "a")


def test_a_renamed_field_replaces_ours() -> None:
    row = {"chosen": "a", "rejected": "b", "prompt": "q", "best": "c"}
    assert one(row, Preference, mapping={"chosen": "best"}).chosen == "c"


def test_one_field_may_serve_twice() -> None:
    assert one({"t": "a"}, mapping={"prompt": "t", "completion": "t"}) == Prompted("file line 1", "a", "a")


def test_a_field_that_moved_is_no_longer_there() -> None:
    """`text` becomes the prompt, so what is left is not a text row."""
    refused({"text": "a"}, Text, what="no format", mapping={"prompt": "text"})


def test_a_mapping_to_a_field_that_is_not_there() -> None:
    error = refused({"question": "q"}, what="no field qestion", mapping={"prompt": "qestion"})
    assert error.fix == "did you mean question?"
    error = refused({"a": "q"}, what="no field zzz", mapping={"prompt": "zzz"})
    assert error.fix == "the row has a"


def test_the_mapping_holds_for_every_row() -> None:
    with pytest.raises(DataError) as caught:
        parse([{"q": "a"}, {"text": "a"}], mapping={"text": "q"})
    assert caught.value.where == "file line 2, field q"


def test_labels_may_be_mapped() -> None:
    assert one({"text": "t", "category": "c"}, Labelled, mapping={"label": "category"}).label == "c"


def test_an_error_speaks_of_fields_by_the_files_names() -> None:
    error = refused({"text": "t", "category": ["x"]}, Labelled, what="not a string")
    assert error.where == "file line 1, field category"


def test_the_format_is_reported_once() -> None:
    told: list[tuple[str, list[str]]] = []
    parse([ROWS["prompted"]] * 3, on_format=lambda name, fields: told.append((name, list(fields))))
    assert told == [("prompted", ["prompt", "completion"])]


# Real files


@pytest.mark.parametrize(
    ("name", "options", "reads", "record", "count"),
    [
        ("rasbt_instruct_1100/instruction-data.json", {}, SFT, Chat, 1100),
        ("gsm8k/test.jsonl", {"mapping": {"prompt": "question", "completion": "answer"}}, SFT, Prompted, 1319),
        ("gsm8k/test.jsonl", {"text_template": "Q: {question}\nA: {answer}"}, SFT, Text, 1319),
        ("banking77/test.csv", {"mapping": {"label": "category"}}, (Labelled,), Labelled, 3080),
        ("banking77/test.csv", {}, (Text,), Text, 3080),
        ("tinyshakespeare/input.txt", {}, (Text,), Text, 1),
        ("gsm8k/test.jsonl", {}, SFT, Chat, 1319),
        ("banking77/test.csv", {}, (Labelled,), Labelled, 3080),
        ("wnut17/wnut17train.conll", {}, (Tagged,), Tagged, 3394),
        ("scitldr_a/dev.jsonl", {}, SFT, Chat, 619),
        ("xquad_en/xquad.en.json", {}, SFT, Chat, 1190),
        ("arc_easy/arc_easy.jsonl", {}, (*SFT, Choice), Choice, 2376),
    ],
)
def test_real_files(name: str, options: dict[str, Any], reads: tuple[type, ...], record: type, count: int) -> None:
    found = list(parse_rows(placed(shared_data(name)), reads, **options))
    assert len(found) == count
    assert {type(each) for each in found} == {record}


def test_real_preferences_hold_six_pairs_of_equal_answers() -> None:
    found: list[DataError] = []
    rows = placed(shared_data("rasbt_preference_1100/instruction-data-with-preference.json"))
    kept = list(parse_rows(rows, (Preference,), on_bad=found.append))
    assert len(kept) == 1094
    assert {error.what for error in found} == {"chosen equal to rejected"}


def test_fields_that_nothing_reads_are_reported() -> None:
    told: list[list[str]] = []
    rows = [
        {"messages": [USER, BOT], "system": "x", "tools": [], "id": 1},
        {"messages": [USER, BOT], "chat_template_kwargs": {"enable_thinking": False}, "kind": 2},
        {"messages": [USER, BOT], "history": [], "id": 3},
    ]
    list(parse_rows([("a line 1", row) for row in rows], (Chat,), on_unread=lambda names: told.append(list(names))))
    assert told == [["id"], ["id", "kind"]]
    told.clear()
    paired = {"text": "t", "label": "l", "weight": 2, "source": "x"}
    one(paired, Labelled, mapping={"label": "label"}, on_unread=lambda names: told.append(list(names)))
    assert told == [["source", "weight"]]


def test_a_table_with_names_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Nr, Question, Answer\n1,q,a\n2,q,b\n", encoding="utf-8")
    told, unread = list[str](), list[Any]()
    found = list(
        parse_rows(placed(path), (Chat,), on_format=lambda name, _: told.append(name), on_unread=unread.append)
    )
    assert [record.messages[1].content for record in found] == ["a", "b"]
    assert (told, unread) == (["question"], [["nr"]])
