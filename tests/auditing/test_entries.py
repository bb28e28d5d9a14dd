"""Records as the checks compare them, and the locations of rows."""

from __future__ import annotations

from parsed_rows import BOT, USER, parse_for

from bottega.auditing.entries import RowLocations, create_entry
from bottega.records import Labelled


def test_an_entry_has_the_parts_of_its_record() -> None:
    record = Labelled("rows.csv line 7", "the cat", "a")
    entry = create_entry(3, record)
    assert (entry.row, entry.where, entry.record) == (3, "rows.csv line 7", record)
    assert tuple(entry[2:]) == tuple(record.parts())


def test_rows_that_differ_in_template_variables_differ() -> None:
    quiet = {"enable_thinking": False}
    chats = [parse_for({"messages": [USER, BOT], "chat_template_kwargs": given}, "sft") for given in ({}, quiet)]
    assert create_entry(0, chats[0]).extras != create_entry(1, chats[1]).extras


def test_locations_are_those_that_were_added() -> None:
    locations, places = RowLocations(), ["a.jsonl line 1", "my rows.csv line 12", "a.jsonl line 3000000000", "b row 2"]
    assert [locations.add(where) for where in places] == [0, 1, 2, 3]
    assert [locations[index] for index in range(len(locations))] == places
