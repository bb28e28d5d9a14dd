"""Lists in the cells of tables, as JSON, Python or numpy print them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from parsed_rows import one, refused

from bottega.records import (
    Entity,
    Labelled,
    Multilabelled,
    Paired,
    Prompted,
    Tagged,
)
from bottega.records.cells import parse_list, parse_list_cells
from bottega.records.parser import parse_rows


@pytest.mark.parametrize("text", ["[" * 100_000 + "]", "[" + "x, " * 100_000 + "]", "[9" + "**9" * 50 + "]", "[)]"])
def test_a_cell_that_only_begins_like_a_list_takes_no_time(text: str) -> None:
    started = time.perf_counter()
    for name in ("label", "prompt", "negatives"):
        fields = {"text": "x", "completion": "a", "label": "b", name: text}
        list(parse_rows([("file line 1", fields)], (Prompted, Labelled), on_bad=lambda error: None))
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("tokens", "tags"),
    [
        ("['EU' 'rejects' 'German']", "['B-ORG' 'O' 'B-MISC']"),
        ("['EU', 'rejects', 'German']", '["B-ORG", "O", "B-MISC"]'),
        ("['EU'\n 'rejects' \"German\"]", "['B-ORG'\n 'O' 'B-MISC']"),
    ],
)
@pytest.mark.parametrize("capitals", [False, True])
def test_lists_as_libraries_print_them_into_tables(tokens: str, tags: str, capitals: bool) -> None:
    names = ("Tokens", "Tags") if capitals else ("tokens", "tags")
    record = one(dict(zip(names, (tokens, tags), strict=True)), Tagged)
    assert record == Tagged("file line 1", "EU rejects German", (Entity(0, 2, "ORG"), Entity(11, 17, "MISC")))


def test_texts_between_which_a_comma_is_missing_are_not_joined() -> None:
    told = refused({"text": "x", "labels": "['a' 'b', 'c']"}, Multilabelled)
    assert told.what == "labels is not a list"


def test_lists_in_cells_of_columns_in_capitals() -> None:
    found = one({"Text": "x", "Labels": "['a', 'b']"}, Labelled, Multilabelled)
    assert found == Multilabelled("file line 1", "x", ("a", "b"))
    for name in ("Negatives", "hard_negatives", "neg_1"):
        given = {"anchor": "a", "positive": "b", name: '["c", "d"]'}
        given = {key.capitalize(): value for key, value in given.items()} if name.istitle() else given
        assert one(given, Paired) == Paired("file line 1", "a", "b", ("c", "d"), None)


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ('["a", 1, null]', ["a", 1, None]),
        ("['a', None, {'b': 1}]", ["a", None, {"b": 1}]),
        ("['a' \"it's\"]", ["a", "it's"]),
        ("[1 -2.5\n 3e2]", [1, -2.5, 300.0]),
        ("[] ", []),
        ("['a' 'b', 'c']", None),
        ("('a', 'b')", None),
        ("[__import__('os')]", None),
        (" ['a']", None),
        ("[a]", None),
        ('{"a": 1}', None),
        (["a"], None),
        (None, None),
    ],
)
def test_lists_of_a_cell(cell: Any, items: list[Any] | None) -> None:
    assert parse_list(cell) == items


def test_only_fields_that_may_hold_a_list_are_parsed() -> None:
    assert parse_list_cells({"tags": "[1]", "Tools": "[]", "text": "[1]"}) == {"tags": [1], "Tools": [], "text": "[1]"}
    # A prompt in brackets is a text unless it is messages, and negatives are texts.
    talk = '[{"role": "user", "content": "q"}]'
    row = {"prompt": "[1]", "completion": talk, "negatives": "[1]", "neg_1": '["a"]'}
    assert parse_list_cells(row) == {**row, "completion": json.loads(talk), "neg_1": ["a"]}
