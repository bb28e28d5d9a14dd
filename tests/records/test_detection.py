"""The format of a source, detected from the fields and values of its first row."""

from __future__ import annotations

import pytest
from parsed_rows import ASK, BOT, ROWS, SAY, SFT, USER, one, parse_for, refused

from bottega import objectives
from bottega.errors import RecipeError
from bottega.records import (
    Chat,
    Choice,
    Compared,
    Labelled,
    Message,
    Posed,
    Preference,
    Prompted,
    Text,
    Unpaired,
)
from bottega.records.formats import load_formats

FORMATS = load_formats()


@pytest.mark.parametrize("kind", sorted({*objectives.kinds()} - {"custom"}))
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_recognised_where_the_objective_reads_it(name: str, kind: str) -> None:
    reads = objectives.load(kind).reads
    if FORMATS[name].record in reads:
        assert type(one(ROWS[name], *reads)) is FORMATS[name].record
        assert one(ROWS[name], *reads) == one(ROWS[name], *reads, format=name)
        return
    with pytest.raises(RecipeError, match=f"does not read {name} rows") as caught:
        one(ROWS[name], *reads, format=name)
    assert caught.value.where == "data.format"
    if Posed in reads and {"prompt", "question", "instruction", "messages"} & set(ROWS[name]):
        assert type(one(ROWS[name], *reads)) is Posed
    elif name in ("labelled", "multilabelled", "spans") and Text in reads:
        assert type(one(ROWS[name], *reads)) is Text
    elif name == "compared" and Labelled in reads:
        assert type(one(ROWS[name], *reads)) is Labelled
    elif name == "labelled_pair" and Compared in reads:
        refused(ROWS[name], *reads, what='score "l"')
    else:
        refused(ROWS[name], *reads, what="no format this objective reads")


@pytest.mark.parametrize(
    ("present", "reads", "record"),
    [
        (("messages", "instruction", "prompted", "text"), SFT, Chat),
        (("prompted", "text"), SFT, Prompted),
        (("instruction", "prompted"), SFT, Chat),
        (("preference", "instruction"), SFT, Chat),
        (("preference", "instruction"), (Preference,), Preference),
        (("labelled", "text"), (Labelled,), Labelled),
        (("labelled", "text"), (Text,), Text),
        (("text", "messages"), (Text, Chat), Text),
        (("text", "messages"), (Chat, Text), Chat),
    ],
)
def test_the_format_that_the_objective_prefers_is_taken(
    present: tuple[str, ...], reads: tuple[type, ...], record: type
) -> None:
    fields = {key: value for name in present for key, value in ROWS[name].items()}
    assert type(one(fields, *reads)) is record


def test_messages_come_before_an_instruction() -> None:
    fields = ROWS["instruction"] | {"messages": [{"role": "assistant", "content": "other"}]}
    assert one(fields).messages == (Message("assistant", "other"),)


def test_an_unknown_format_names_fields_and_known_formats() -> None:
    error = refused({"query": "q", "reply": "a"}, *SFT, what="fields query, reply")
    assert "messages or instruction + output or question + answer" in str(error.fix)
    refused({}, *SFT, what="fields none")


def test_a_format_asked_for_must_have_its_fields() -> None:
    error = refused({"text": "t", "lable": "l"}, Labelled, what="no field label", format="labelled")
    assert error.fix == "did you mean lable?"
    assert error.where == "file line 1, field label"


def test_the_format_that_needs_most_is_taken() -> None:
    reads = objectives.load("sft").reads
    assert type(one(ROWS["unpaired"], *reads)) is Unpaired
    assert type(one({**ROWS["unpaired"], "label": "spam"}, *reads)) is Prompted, "a class is no verdict"
    assert type(one({"question": "q", "choices": ["a", "b"], "answer": "a"}, *reads)) is Choice


def test_a_label_beside_a_conversation_is_a_rating_only_for_objectives_that_read_ratings() -> None:
    assert parse_for({"messages": [USER, BOT], "label": 1}, "sft") == Chat("file line 1", (ASK, SAY))


def test_an_empty_second_text_is_ignored() -> None:
    for beside in ({"question": None}, {"premise": ""}, {"query": 17}):
        fields = {"sentence": "s", "label": "a", **beside}
        assert parse_for(fields, "classify") == Labelled("file line 1", "s", "a")
    assert parse_for({"document": "d", "query": "q-17", "label": "a"}, "classify") == Labelled("file line 1", "d", "a")


def test_names_that_differ_in_capitals_alone_stay_as_they_are() -> None:
    assert "no format" in refused({"Question": "q", "QUESTION": "r", "Answer": "a"}, Chat).what


def test_a_prompt_is_preferred_to_the_question_it_was_made_of() -> None:
    for name in ("question", "query", "input"):
        row = {"prompt": "P: q", "completion": " C", name: "q"}
        assert one(row, Chat, Prompted) == Prompted("file line 1", "P: q", " C")


def test_a_number_beside_an_answer_is_not_a_rating_of_it() -> None:
    for level in (0, 1):
        row = {"question": "q", "answer": "a", "label": level}
        assert parse_for(row, "sft") == Chat("file line 1", (ASK, SAY))
    assert parse_for({"question": "q", "answer": "a", "label": False}, "kto").desirable is False
