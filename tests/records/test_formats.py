"""The record that a row of each format becomes, whatever its fields are called, and which rows are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from parsed_rows import (
    ASK,
    BAD,
    BOT,
    BRIEF,
    GPT,
    HUMAN,
    NO,
    PASSAGE,
    ROWS,
    SAY,
    SPOKEN,
    SYSTEM,
    TALK,
    TOOL,
    USER,
    WORSE,
    one,
    parse_for,
    refused,
)

from bottega.records import (
    Chat,
    Choice,
    Compared,
    Entity,
    Labelled,
    Message,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
)
from bottega.records.formats import format_names, load_format, record_types
from bottega.records.formats._labels import are_spans, parse_similarity, quote
from bottega.records.formats._prompts import first_answer, join_transcript, number_as_text, simplify_answer
from bottega.records.parser import parse_rows

WHERE = "file line 1"
RECORDS: dict[str, Record] = {
    "messages": Chat(WHERE, (ASK, SAY)),
    "instruction": Chat(WHERE, (ASK, SAY)),
    "prompted": Prompted(WHERE, "q", "a"),
    "question": Chat(WHERE, (ASK, SAY)),
    "summary": Chat(WHERE, (Message("user", "Summarise:\n\nq"), SAY)),
    "preference": Preference(WHERE, "q", "a", "b"),
    "openai_preference": Preference(WHERE, (ASK,), "a", "b"),
    "unpaired": Unpaired(WHERE, "q", "a", True),
    "labelled": Labelled(WHERE, "t", "l"),
    "labelled_pair": Labelled(WHERE, "a\nb", "l"),
    "multilabelled": Multilabelled(WHERE, "t", ("l", "m")),
    "conll": Tagged(WHERE, "t", ()),
    "spans": Tagged(WHERE, "t", ()),
    "paired": Paired(WHERE, "a", "p"),
    "compared": Compared(WHERE, "a", "b", 0.5),
    "choice": Choice(WHERE, "q", ("a", "b"), 0),
    "lettered_choice": Choice(WHERE, "q", ("a", "b"), 0),
    "posed": Posed(WHERE, "q", row=ROWS["posed"]),
    "text": Text(WHERE, "t"),
}


@pytest.mark.parametrize("name", format_names())
def test_a_row_of_each_format(name: str) -> None:
    assert {accepted[0] for accepted in load_format(name).required} <= set(ROWS[name])
    assert load_format(name).record is type(RECORDS[name])
    assert one(ROWS[name], type(RECORDS[name]), format=name) == RECORDS[name]


def test_examples_and_formats_are_the_same() -> None:
    assert set(ROWS) == set(RECORDS) == set(format_names())
    assert record_types()[0] is Preference, "the record with the lowest priority comes first"
    assert set(record_types()) == {type(record) for record in RECORDS.values()}


def test_instructions_become_conversations() -> None:
    whole = {"system": "s", "instruction": "q", "input": "i", "output": "a"}
    assert one(whole).messages == (Message("system", "s"), Message("user", "q\n\ni"), Message("assistant", "a"))


@pytest.mark.parametrize("nothing", ["", None, " ", "\n"])
def test_an_empty_input_or_system_is_none(nothing: Any) -> None:
    assert one(ROWS["instruction"] | {"input": nothing, "system": nothing}).messages == SPOKEN


def test_an_instruction_is_needed() -> None:
    refused(ROWS["instruction"] | {"instruction": " "}, what="empty instruction")
    refused(ROWS["instruction"] | {"output": ""}, what="empty output")
    refused(ROWS["instruction"] | {"input": 7}, what="not a string", where="file line 1, field input")


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"history": [["q", "a"], ["q", "b"]], "instruction": "q", "output": "a"}, (ASK, SAY, ASK, NO, ASK, SAY)),
        ({"history": [USER, BOT], "question": "q", "answer": "a"}, (ASK, SAY, ASK, SAY)),
        ({"history": [], "instruction": "q", "output": "a"}, (ASK, SAY)),
        ({"system": "Be brief.", "messages": [USER, BOT]}, (BRIEF, ASK, SAY)),
        ({"system": "Be brief.", "question": "q", "context": "c", "answer": "a"}, (BRIEF, PASSAGE, SAY)),
        ({"problem": "q", "solution": "a"}, (ASK, SAY)),
        ({"question": "q", "answer": 4}, (ASK, Message("assistant", "4"))),
        ({"messages": [{"role": "user", "content": [{"type": "text", "value": "q"}]}, BOT]}, (ASK, SAY)),
    ],
)
def test_system_history_and_context_come_before_the_question(fields: dict[str, Any], messages: Any) -> None:
    assert parse_for(fields, "sft") == Chat("file line 1", messages)


def test_history_is_checked() -> None:
    for wrong in ([["q"]], ["q"], "q", [[1, 2]], [{"q": 1}]):
        assert "history" in str(refused({"history": wrong, "instruction": "q", "output": "a"}, Chat))


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, [], None])
def test_a_question_without_an_answer_says_so(answers: Any) -> None:
    error = refused({"question": "q", "context": "c", "answers": answers}, Chat)
    assert error.what == "no answer"
    assert "bad_rows" in str(error.fix)


def test_two_system_messages_that_differ_are_no_conversation() -> None:
    for fields, kind in (
        ({"messages": [SYSTEM, USER, BOT]}, "sft"),
        ({"prompt": "q", "chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, BAD]}, "dpo"),
        ({"messages": [SYSTEM, USER, BOT], "label": True}, "kto"),
        ({"prompt": [SYSTEM, USER], "answer": "a"}, "grpo"),
    ):
        assert parse_for({**fields, "system": " Be brief.\n"}, kind)
        with pytest.raises(Exception, match="which is different"):
            parse_for({**fields, "system": "Be long."}, kind)


def test_system_messages_of_history_and_conversation_are_compared() -> None:
    other = {"role": "system", "content": "something else"}
    row = {"system": BRIEF.content, "history": [["a", "b"]], "messages": [other, USER, BOT]}
    assert "a system message of its own" in refused(row, Chat).what
    row = {"history": [["a", "b"]], "messages": [SYSTEM, USER, BOT]}
    past = (Message("user", "a"), Message("assistant", "b"))
    assert parse_for(row, "sft").messages == (BRIEF, *past, ASK, SAY)


@pytest.mark.parametrize("named", ["tools", "functions"])
def test_tools_reach_every_kind_of_row(named: str) -> None:
    for given in ([TOOL], [TOOL["function"]], json.dumps([TOOL])):
        for fields, reads in (
            ({"messages": [USER, BOT]}, Chat),
            ({"instruction": "q", "output": "a"}, Chat),
            ({"question": "q", "answer": "a"}, Chat),
            ({"prompt": "q", "chosen": "a", "rejected": "b"}, Preference),
            ({"prompt": [USER], "completion": [BOT], "label": True}, Unpaired),
            ({"question": "q", "answer": "a"}, Posed),
        ):
            record = one({**fields, named: given}, reads)
            assert record.tools == (TOOL,)
    both = (Chat, Prompted)
    assert one({"prompt": "q", "completion": "a", named: [TOOL]}, *both) == Chat("file line 1", (ASK, SAY), (TOOL,))


def test_values_for_the_template_make_a_prompt_a_conversation() -> None:
    row = {"prompt": "q", "completion": "a", "chat_template_kwargs": {"deep": True}}
    found = parse_for(row, "kto" if "label" in row else "sft")
    assert (found.messages, found.variables) == ((ASK, SAY), {"deep": True})


def test_a_prompt_may_be_empty_and_a_completion_may_not() -> None:
    assert one({"prompt": "", "completion": " a\n"}) == Prompted("file line 1", "", " a\n")
    refused({"prompt": "q", "completion": " \n"}, what="empty completion", where="file line 1, field completion")


QUIET = Message("assistant", "a", weight=0.0)


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"prompt": [USER], "completion": [BOT]}, (ASK, SAY)),
        ({"prompt": [USER], "completion": "a"}, (ASK, SAY)),
        ({"prompt": "q", "completion": [BOT]}, (ASK, SAY)),
        ({"prompt": [USER], "completion": BOT}, (ASK, SAY)),
        ({"prompt": [SYSTEM, USER, BOT, USER], "completion": [BOT]}, (BRIEF, ASK, QUIET, ASK, SAY)),
        ({"system": "Be brief.", "prompt": "q", "completion": "a"}, (BRIEF, ASK, SAY)),
        ({"history": [["q", "a"]], "prompt": [USER], "response": "a"}, (ASK, QUIET, ASK, SAY)),
    ],
)
def test_of_prompts_and_completions_the_completion_is_learned(fields: dict[str, Any], messages: Any) -> None:
    assert parse_for(fields, "sft") == Chat("file line 1", messages)


def test_texts_stay_as_they_are() -> None:
    assert parse_for({"prompt": "q", "completion": "a", "system": ""}, "sft") == Prompted("file line 1", "q", "a")
    assert "no assistant message" in refused({"prompt": "q", "completion": [USER]}, Chat, Prompted).what


def test_preferences_of_strings() -> None:
    assert one(ROWS["preference"], Preference) == Preference("file line 1", "q", "a", "b")
    asked = one({"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"}, Preference)
    assert asked == Preference("file line 1", (Message("user", "q\n\ni"),), "a", "b")
    asked = one({"prompt": TALK[:1], "chosen": "a", "rejected": "b"}, Preference)
    assert asked == Preference("file line 1", (SPOKEN[0],), "a", "b")


def talk_to(answer: str, *before: dict[str, str]) -> list[dict[str, str]]:
    return [*before, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    "fields",
    [
        {"chosen": talk_to("a", TALK[0]), "rejected": talk_to("b", TALK[0])},
        {"prompt": TALK[:1], "chosen": talk_to("a"), "rejected": talk_to("b")},
        {"prompt": "q", "chosen": talk_to("a", TALK[0]), "rejected": talk_to("b", TALK[0])},
    ],
    ids=["implicit", "explicit", "prompt-repeated"],
)
def test_preferences_of_conversations(fields: dict[str, Any]) -> None:
    assert one(fields, Preference) == Preference("file line 1", (SPOKEN[0],), "a", "b")


def test_a_prompt_of_text_is_not_lost_beside_answers_of_messages() -> None:
    record = one({"prompt": "q", "chosen": talk_to("a"), "rejected": talk_to("b")}, Preference)
    assert record == Preference("file line 1", (SPOKEN[0],), "a", "b")


def test_preferences_after_several_turns() -> None:
    fields = {"chosen": talk_to("c", *TALK, TALK[0]), "rejected": talk_to("d", *TALK, TALK[0])}
    assert one(fields, Preference) == Preference("file line 1", (*SPOKEN, SPOKEN[0]), "c", "d")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen equal to rejected"),
        ({"chosen": talk_to("a", TALK[0]), "rejected": talk_to("a", TALK[0])}, "chosen equal to rejected"),
        ({"chosen": "a", "rejected": "b"}, "no field prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "empty rejected"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "not a string"),
        ({"prompt": "q", "chosen": "a", "rejected": talk_to("b")}, "not a string"),
        ({"chosen": talk_to("a", TALK[0]), "rejected": "b"}, "not a list of messages"),
        ({"chosen": talk_to("a", TALK[0]), "rejected": talk_to("b")}, "before an assistant message"),
        ({"chosen": TALK[:1], "rejected": talk_to("b")}, "before an assistant message"),
        ({"chosen": [], "rejected": talk_to("b")}, "not a list of messages"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "not a list of messages"),
    ],
)
def test_preferences_are_checked(fields: dict[str, Any], what: str) -> None:
    refused(fields, Preference, what=what)


def test_transcripts_of_text_share_their_prompt() -> None:
    start = "\n\nHuman: hi there\n\nAssistant:"
    record = one({"chosen": f"{start} Hello!", "rejected": f"{start} Hey you"}, Preference)
    assert (record.prompt, record.chosen, record.rejected) == (start, " Hello!", " Hey you")
    record = one({"chosen": "the cat sat", "rejected": "the car sat"}, Preference)
    assert (record.prompt, record.chosen, record.rejected) == ("the ", "cat sat", "car sat")


def test_transcripts_may_part_before_the_end() -> None:
    better = [*TALK, {"role": "user", "content": "more"}, {"role": "assistant", "content": "c"}]
    worse = [TALK[0], {"role": "assistant", "content": "b"}]
    record = one({"chosen": better, "rejected": worse}, Preference)
    assert record.prompt == SPOKEN[:1]
    assert record.rejected == "b"
    assert [message.content for message in record.chosen] == ["a", "more", "c"]


def test_preferences_of_openai() -> None:
    assert one(ROWS["openai_preference"], Preference) == Preference("file line 1", SPOKEN[:1], "a", "b")
    refused({**ROWS["openai_preference"], "input": "q"}, Preference, what="no messages")


WHOLE = Preference("file line 1", (ASK,), "a", "b")


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": [HUMAN], "chosen": GPT, "rejected": WORSE},
        {"messages": [USER], "chosen": BOT, "rejected": BAD},
        {"conversations": [HUMAN], "chosen": [GPT], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, BAD]},
        {"prompt": "q", "prompt_id": "7", "messages": [USER, BOT], "chosen": [USER, BOT], "rejected": [USER, BAD]},
        {"chosen": [USER, BOT], "rejected": [USER, BAD], "score_chosen": 1.0},
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        {"instruction": "q", "chosen_response": "a", "rejected_response": "b"},
        {"question": "q", "response_j": "a", "response_k": "b"},
        {"question": "q", "response_chosen": "a", "response_rejected": "b"},
        {"input": {"messages": [USER]}, "preferred_output": [BOT], "non_preferred_output": [BAD]},
        {
            "input": {"messages": [USER], "parallel_tool_calls": True, "tools": []},
            "preferred_output": [BOT],
            "non_preferred_output": [BAD],
        },
    ],
)
def test_preferences(fields: dict[str, Any]) -> None:
    for kind in ("dpo", "reward", "kto", "sft"):
        assert parse_for(fields, kind) == WHOLE


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": "q", "chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, BAD]}, (BRIEF, ASK)),
        ({"prompt": "q", "chosen": [USER, BOT, USER, BOT], "rejected": [USER, BOT, USER, BAD]}, (ASK, SAY, ASK)),
        ({"prompt": " q\n", "chosen": [USER, BOT], "rejected": [USER, BAD]}, (ASK,)),
        ({"prompt": [USER], "chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, BAD]}, (BRIEF, ASK)),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, BOT], "rejected": [USER, BAD]}, (BRIEF, ASK)),
        ({"prompt": "other", "chosen": [BOT], "rejected": [BAD]}, (Message("user", "other"),)),
        ({"system": "Be brief.", "prompt": [USER], "chosen": [BOT], "rejected": [BAD]}, (BRIEF, ASK)),
        ({"system": "Be brief.", "chosen": [USER, BOT], "rejected": [USER, BAD]}, (BRIEF, ASK)),
        ({"system": "Be brief.", "prompt": "q", "chosen": [USER, BOT], "rejected": [USER, BAD]}, (BRIEF, ASK)),
        ({"system": "Be brief.", "prompt": "q", "chosen": "a", "rejected": "b"}, (BRIEF, ASK)),
        ({"system": "Be brief.", "question": "q", "chosen": "a", "rejected": "b"}, (BRIEF, ASK)),
        ({"question": "q", "context": "c", "chosen": "a", "rejected": "b"}, (PASSAGE,)),
        ({"question": "q", "context": "c", "chosen": [BOT], "rejected": [BAD]}, (PASSAGE,)),
        ({"history": [["q", "a"]], "prompt": "q", "chosen": "a", "rejected": "b"}, (ASK, SAY, ASK)),
    ],
)
def test_the_prompt_of_a_preference_is_not_repeated(fields: dict[str, Any], prompt: Any) -> None:
    record = one(fields, Preference)
    assert (record.prompt, record.chosen, record.rejected) == (prompt, "a", "b")


def test_history_follows_the_system_message_of_a_transcript() -> None:
    rows = {"history": [["q", "b"]], "chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, BAD]}
    assert one(rows, Preference).prompt == (BRIEF, ASK, NO, ASK)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"input": "q", "chosen": "a", "rejected": "b"}, (ASK,)),
        ({"Prompt": "q", "Chosen": "a", "Rejected": "b"}, "q"),
        ({"prompt": "q", "accepted": "a", "rejected": "b"}, "q"),
        ({"prompt": "q", "chosen": json.dumps([USER, BOT]), "rejected": str([USER, BAD])}, (ASK,)),
        ({"prompt": json.dumps([SYSTEM, USER]), "chosen": "a", "rejected": "b"}, (BRIEF, ASK)),
        ({"question": "q", "context": "c", "accepted": "a", "dispreferred": "b"}, (PASSAGE,)),
    ],
)
def test_preferences_in_further_spellings(fields: dict[str, Any], prompt: Any) -> None:
    assert parse_for(fields, "dpo") == Preference("file line 1", prompt, "a", "b")


def test_unpaired_answers() -> None:
    assert one(ROWS["unpaired"], Unpaired) == Unpaired("file line 1", "q", "a", True)
    talk = one({"prompt": TALK[:1], "completion": TALK[1:], "label": False}, Unpaired)
    assert talk == Unpaired("file line 1", SPOKEN[:1], "a", False)
    refused({**ROWS["unpaired"], "label": 3}, Unpaired, what="label 3", format="unpaired")


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), (1, True), (0, False), ("1", True), (1.0, True), ("True", True), ("false", False)]
)
def test_a_rating_may_be_a_number(label: Any, good: bool) -> None:
    expected = Unpaired("file line 1", "q", "a", good)
    assert parse_for({"prompt": "q", "completion": "a", "label": label}, "kto") == expected


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": [USER], "completion": [BOT], "label": True}, (ASK,)),
        ({"prompt": "q", "completion": [USER, BOT], "label": True}, (ASK,)),
        ({"conversations": [HUMAN, GPT], "kto_tag": True}, (ASK,)),
        ({"messages": [USER, BOT, USER, BOT], "label": True}, (ASK, SAY, ASK)),
        ({"system": "Be brief.", "prompt": [USER], "completion": [BOT], "label": True}, (BRIEF, ASK)),
        ({"question": "q", "context": "c", "response": "a", "label": True}, (PASSAGE,)),
        ({"instruction": "q", "input": "", "response": "a", "label": True}, (ASK,)),
    ],
)
def test_ratings_of_conversations(fields: dict[str, Any], prompt: Any) -> None:
    assert parse_for(fields, "kto") == Unpaired("file line 1", prompt, "a", True)


def test_a_rating_needs_an_answer() -> None:
    for fields in ({"prompt": "q", "completion": None}, {"messages": "x"}, {"prompt": "q", "completion": {"a": 1}}):
        assert refused({**fields, "label": True}, Unpaired)


def test_a_label_that_is_not_a_rating() -> None:
    error = refused({"prompt": "q", "completion": "a", "label": "spam"}, Unpaired, Preference)
    assert "true or false, 1 or 0" in str(error.fix)
    assert type(parse_for({"prompt": "q", "completion": "a", "label": "spam"}, "sft")) is Prompted


@pytest.mark.parametrize(
    ("fields", "prompt", "good"),
    [
        ({"instruction": "q", "input": "c", "output": "a", "kto_tag": True}, (Message("user", "q\n\nc"),), True),
        ({"instruction": "q", "output": "a", "kto_tag": "false"}, (ASK,), False),
        ({"query": "q", "response": "a", "label": 0}, (ASK,), False),
        ({"prompt": "q", "answer": "a", "label": 1}, "q", True),
        ({"messages": [USER, BOT], "label": 1}, (ASK,), True),
        ({"conversations": json.dumps([USER, BOT]), "label": "FALSE"}, (ASK,), False),
        ({"Prompt": "q", "Completion": "a", "Label": "True"}, "q", True),
    ],
)
def test_ratings_in_further_spellings(fields: dict[str, Any], prompt: Any, good: bool) -> None:
    assert parse_for(fields, "kto") == Unpaired("file line 1", prompt, "a", good)


@pytest.mark.parametrize(
    ("fields", "prompt", "right"),
    [
        ({"question": "q", "context": "c", "answer": "a"}, (PASSAGE,), "a"),
        ({"problem": "q", "solution": "a"}, (ASK,), "a"),
        ({"query": "q", "ground_truth": 3.0}, (ASK,), "3"),
        ({"prompt": "q", "answer": "a"}, "q", "a"),
        ({"prompt": [USER], "completion": [BOT]}, (ASK,), "a"),
        ({"system": "Be brief.", "prompt": [USER], "solution": "a"}, (BRIEF, ASK), "a"),
        ({"system": "Be brief.", "prompt": "q", "solution": "a"}, (BRIEF, ASK), "a"),
        ({"system": "Be brief.", "messages": [USER, BOT]}, (BRIEF, ASK), "a"),
        ({"history": [["q", "a"]], "instruction": "q", "output": "a"}, (ASK, SAY, ASK), "a"),
    ],
)
def test_prompts_with_reference_answers(fields: dict[str, Any], prompt: Any, right: str) -> None:
    record = one(fields, Posed)
    assert (record.prompt, record.right, record.row) == (prompt, right, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "4"}},
        {"question": "q", "final_answer": 4.0},
        {"problem": "q", "expected_answer": "4"},
        {"question": "q", "gold": "4"},
        {"Question": "q", "Answer": "4"},
        {"prompt": json.dumps([USER]), "answer": ["4", "5"]},
    ],
)
def test_reference_answers_in_further_spellings(fields: dict[str, Any]) -> None:
    record = one(fields, Posed)
    assert (record.prompt, record.right) == ((ASK,), "4")


def test_an_answer_that_a_table_leaves_empty_is_none() -> None:
    assert one({"question": "q", "answer": ""}, Posed) == Posed(
        "file line 1", (ASK,), row={"question": "q", "answer": ""}
    )


@pytest.mark.parametrize(("label", "name"), [("l", "l"), (3, "3"), (0, "0"), (-1, "-1"), (0.5, "0.5")])
def test_labels_are_names(label: Any, name: str) -> None:
    assert one({"text": "t", "label": label}, Labelled) == Labelled("file line 1", "t", name)


@pytest.mark.parametrize("label", [None, "", " ", ["a"], {"a": 1}])
def test_labels_are_checked(label: Any) -> None:
    refused({"text": "t", "label": label}, Labelled, what="label", where="file line 1, field label")


def test_labels_of_rows() -> None:
    assert parse_for({"text": "t", "label": 1.0}, "classify") == Labelled("file line 1", "t", "1")
    assert parse_for({"text": "t", "label": False}, "classify") == Labelled("file line 1", "t", "false")
    assert parse_for({"text": "t", "labels": [0, 2.0]}, "classify") == Multilabelled("file line 1", "t", ("0", "2"))
    assert parse_for({"text": "t", "labels": "spam"}, "classify") == Labelled("file line 1", "t", "spam")
    for nothing in (None, float("nan")):
        assert refused({"text": "t", "label": nothing}, Labelled).what == "no label"
        assert refused({"text": "t", "labels": ["a", nothing]}, Multilabelled).what == "no labels"
    for label in ("P\ud800", ["a", "P\ud800"]):
        assert "half a character" in refused({"text": "t", "labels": label}, Labelled, Multilabelled).what


def test_labels_of_a_table() -> None:
    assert parse_for({"Text": "x", "Label": " spam"}, "classify") == Labelled("file line 1", "x", "spam")
    assert parse_for({"text": "x", "labels": "['a', 'b']"}, "classify") == Multilabelled("file line 1", "x", ("a", "b"))
    assert parse_for({"text": "x", "label": " 1.0 "}, "classify").label == "1"


@pytest.mark.parametrize(
    ("first", "second", "label"),
    [
        ("premise", "hypothesis", "label"),
        ("sentence1", "sentence2", "score"),
        ("question1", "question2", "is_duplicate"),
        ("question", "sentence", "label"),
        ("question", "passage", "label"),
        ("Sentence_A", "Sentence_B", "Label"),
    ],
)
def test_a_label_of_two_texts(first: str, second: str, label: str) -> None:
    fields = {first: "a", second: "b", label: 2}
    for objective in ("classify", "regress"):
        assert parse_for(fields, objective) == Labelled("file line 1", "a\nb", "2")
    assert "no label" in refused({first: "a", second: "b", label: None}, Labelled).what
    assert "empty" in refused({first: "a", second: " ", label: 2}, Labelled).what


def test_tags_become_spans() -> None:
    tokens, tags = ["Ada", "Byron", "saw", "Rome", "Turin"], ["B-who", "I-who", "O", "B-place", "B-place"]
    record = one({"tokens": tokens, "tags": tags}, Tagged)
    assert record.text == "Ada Byron saw Rome Turin"
    assert [record.text[span.start : span.stop] for span in record.spans] == ["Ada Byron", "Rome", "Turin"]
    assert [span.label for span in record.spans] == ["who", "place", "place"]
    other = one({"tokens": tokens, "tags": ["I-who", "L-who", "O", "S-place", "U-place"]}, Tagged)
    assert other.spans == record.spans
    refused({"tokens": tokens, "tags": tags[:4]}, Tagged, what="not as many tags")
    refused({"tokens": ["a"], "tags": ["who"]}, Tagged, what="tag 'who'")


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-P M-P E-P", ["a b c"]),
        ("B-P I-P M-P", ["a b c"]),
        ("S-P M-P E-P", ["a", "b c"]),
        ("B-P I-Q O", ["a", "b"]),
        ("U-P B-P L-P", ["a", "b c"]),
    ],
)
def test_schemes(tags: str, found: list[str]) -> None:
    record = one({"tokens": ["a", "b", "c"], "tags": tags.split()}, Tagged)
    assert [record.text[span.start : span.stop] for span in record.spans] == found


@pytest.mark.parametrize("tag", ["PER-B", "X-PER", "b-PER", "O-PER", "B_PER", "BI-PER", "-PER", 3, None, -1])
def test_an_invalid_tag_is_named(tag: Any) -> None:
    error = refused({"tokens": ["a"], "tags": [tag]}, Tagged)
    assert "no tag" in error.what if tag in (None, -1) else repr(tag) in error.what


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": "Mara ran", "tags": "B-P O"},
        {"tokens": "['Mara', 'ran']", "ner_tags": "['B-P', 'O']"},
        {"Words": ["Mara", "ran"], "NER": ["U-P", "O"]},
        {"tokens": ["Mara", "ran"], "labels": [" B-P ", "O"]},
        {"tokens": ["Mara", "ran"], "labels": ["B- P", "O"]},
    ],
)
def test_tags_in_further_spellings(fields: dict[str, Any]) -> None:
    assert one(fields, Tagged) == Tagged("file line 1", "Mara ran", (Entity(0, 4, "P"),))


def test_spans_are_of_the_text() -> None:
    spans = [{"start": 4, "end": 7, "label": "b"}, {"start": 0, "end": 3, "type": "a"}]
    assert one({"text": "one two", "spans": spans}, Tagged).spans == (Entity(0, 3, "a"), Entity(4, 7, "b"))
    for wrong in (
        {"start": 0, "end": 8, "label": "a"},
        {"start": 2, "end": 2, "label": "a"},
        {"start": 0, "end": 2},
        7,
    ):
        refused({"text": "one two", "spans": [wrong]}, Tagged, what="does not fit the text")
    overlap = [{"start": 0, "end": 5, "label": "a"}, {"start": 4, "end": 7, "label": "b"}]
    refused({"text": "one two", "spans": overlap}, Tagged, what="overlap")


MARKED = Tagged("file line 1", "Mara ran", (Entity(0, 4, "PER"),))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "Mara ran", "spans": [{"start": 0, "end": 4, "label": "PER"}]},
        {"text": "Mara ran", "spans": [{"start": 0.0, "end": 5.0, "label": "PER"}]},
        {"text": "Mara ran", "entities": [{"id": 1, "label": "PER", "start_offset": 0, "end_offset": 4}]},
        {"text": "Mara ran", "label": [[0, 4, "PER"]]},
        {"text": "Mara ran", "labels": [[0, 4, "PER"]]},
        {"text": "Mara ran", "ents": [{"start": 0, "end": 4, "label": "PER"}], "tokens": []},
        {"text": "Mara ran", "spans": {"entities": [[0, 4, "PER"]]}},
        {"text": "Mara ran", "label": [{"start": 0, "end": 4, "text": "Mara", "labels": ["PER"]}]},
        {"text": "Mara ran", "entities": [{"entity_group": "PER", "start": 0, "end": 4, "score": 0.9}]},
        {"text": "Mara ran", "spans": [{"start": 0, "end": 4, "label": "PER"}] * 2},
        {"text": "Mara ran", "spans": '[{"start": 0, "end": 4, "label": "PER"}]'},
        {
            "data": {"text": "Mara ran"},
            "annotations": [{"result": [{"type": "labels", "value": {"start": 0, "end": 4, "labels": ["PER"]}}]}],
        },
        {"tokens": ["Mara", "ran"], "ner_tags": ["S-PER", "O"]},
        {"words": ["Mara", "ran"], "labels": ["B-PER", "O"]},
    ],
)
def test_spans(fields: dict[str, Any]) -> None:
    assert parse_for(fields, "tag") == MARKED


@pytest.mark.parametrize(
    ("span", "what"),
    [
        ({"start": True, "end": 4, "label": "PER"}, "does not fit the text"),
        ({"start": 0, "end": 4, "label": ""}, "empty label"),
        ({"start": 0, "end": 4, "label": " "}, "empty label"),
        ({"start": 0, "end": 4, "label": "P\ud800"}, "half a character"),
        ({"start": 0, "end": 4, "label": None}, "does not fit the text"),
        ({"start": 4, "end": 5, "label": "PER"}, "only white space"),
        ({"start": 0.5, "end": 4, "label": "PER"}, "does not fit the text"),
        ({"start": 0, "end": 4, "labels": ["A", "B"]}, "does not fit the text"),
    ],
)
def test_spans_are_checked(span: Any, what: str) -> None:
    error = refused({"text": "Mara ran", "spans": [span]}, Tagged)
    assert what in error.what
    assert "spans[0]" in str(error.where)


def test_white_space_at_the_ends_of_a_span_is_left_out() -> None:
    spans = [{"start": 4, "end": 12, "label": "LOC"}, {"start": 0, "end": 4, "label": "PER"}]
    record = one({"text": "Ida  Oslo \n now", "spans": spans}, Tagged)
    assert [(record.text[span.start : span.stop], span.label) for span in record.spans] == [
        ("Ida", "PER"),
        ("Oslo", "LOC"),
    ]


@pytest.mark.parametrize(
    "span",
    [
        {"begin": 4, "end": 8, "label": "P"},
        {"start_char": 4, "end_char": 8, "label": "P"},
        {"start_idx": 4, "end_idx": 8, "category": "P"},
        {"offset": 4, "length": 4, "type": "P"},
        {"start": 4, "end": 8, "label": "P", "text": "Mara"},
        {"start": 4.0, "end": 9.0, "labels": ["P"], "text": "Mara "},
        [4, 8, "P"],
        ["P", 4, 8],
    ],
)
def test_spans_in_further_spellings(span: Any) -> None:
    for name in ("spans", "entities", "ner", "annotations"):
        record = one({"text": "Dot Mara ran", name: [span]}, Tagged)
        assert record == Tagged("file line 1", "Dot Mara ran", (Entity(4, 8, "P"),))


def test_a_span_whose_text_differs_from_the_marked_one() -> None:
    # The end counted with the last character; characters counted as UTF-16 has them; as bytes.
    for text, start, end in (("Mara ran", 0, 3), ("😀 Mara ran", 3, 7), ("à Mara ran", 3, 7)):
        error = refused({"text": text, "spans": [{"start": start, "end": end, "label": "P", "text": "Mara"}]}, Tagged)
        assert '"Mara"' in error.what
        assert error.where == "file line 1, field spans[0]"


def test_a_task_without_annotations_is_not_a_text_without_entities() -> None:
    marked = {"result": [{"value": {"start": 0, "end": 4, "text": "Mara", "labels": ["P"]}}]}
    data = {"data": {"text": "Mara ran"}}
    expected = Tagged("file line 1", "Mara ran", (Entity(0, 4, "P"),))
    assert one({**data, "annotations": [{"was_cancelled": True, "result": []}, marked]}, Tagged) == expected
    assert one({**data, "annotations": [{"result": []}]}, Tagged).spans == ()
    for none in ([], [{"was_cancelled": True, "result": []}]):
        assert refused({**data, "annotations": none}, Tagged).what == "no annotated text"


def test_pairs_with_negatives() -> None:
    row = {"query": "a", "pos": "b", "negatives": ["c", "d"], "label": 7}
    assert one(row, Paired) == Paired("file line 1", "a", "b", ("c", "d"), "7")
    assert one({"anchor": "a", "positive": "b", "negative": "c"}, Paired).negatives == ("c",)
    several = {"anchor": "a", "positive": "b", "negatives": None, "neg": "c", "negative_1": "d", "negative_2": "e"}
    assert one(several, Paired).negatives == ("c", "d", "e")
    refused({"anchor": "a", "positive": "b", "negative": "b"}, Paired, what="positive among the negatives")
    refused({"anchor": "a", "positive": " "}, Paired, what="empty positive")
    refused({"anchor": "a", "positive": "b", "negatives": [3]}, Paired, what="negatives is a number")


def test_scores_are_from_0_to_1() -> None:
    assert one({"text1": "a", "text2": "b", "label": 1}, Compared) == Compared("file line 1", "a", "b", 1.0)
    assert one({"sentence1": "a", "sentence2": "b", "score": "0.25"}, Compared).score == 0.25
    for wrong in (-0.1, 4.5, "much", None, [1], float("nan"), 10**400):
        refused({"sentence1": "a", "sentence2": "b", "score": wrong}, Compared, what="score")


@pytest.mark.parametrize(
    "fields",
    [
        {"anchor": "a", "positive": "b", "hard_negative": "c"},
        {"query": "a", "pos": ["b"], "neg": ["c"]},
        {"anchor": "a", "positive": "b", "negatives": '["c"]'},
        {"Anchor": "a", "Positive": "b", "Negative_1": "c"},
    ],
)
def test_pairs_in_further_spellings(fields: dict[str, Any]) -> None:
    assert parse_for(fields, "contrastive") == Paired("file line 1", "a", "b", ("c",))


def test_several_positives_are_several_rows() -> None:
    assert "a row for each" in str(refused({"query": "a", "pos": ["b", "c"], "neg": []}, Paired).fix)


def test_texts_that_are_compared_in_further_spellings() -> None:
    for names in (("sentence_A", "sentence_B", "score"), ("question1", "question2", "is_duplicate")):
        fields = dict(zip(names, ("a", "b", 1), strict=True))
        assert parse_for(fields, "contrastive") == Compared("file line 1", "a", "b", 1.0)


@pytest.mark.parametrize("gold", [1, "B", "b", "B text"])
def test_choices(gold: Any) -> None:
    fields = {"question": "q", "choices": ["A text", "B text"], "gold": gold}
    if gold == "b":
        refused(fields, Choice, what="none of the 2")
    else:
        assert one(fields, Choice) == Choice("file line 1", "q", ("A text", "B text"), 1)


def test_choices_are_checked() -> None:
    refused({"question": "q", "choices": ["a"], "gold": 0}, Choice, what="fewer than two")
    for gold in (2, -1, True, None):
        refused({"question": "q", "choices": ["x", "y"], "gold": gold}, Choice, what="none of the 2")


def test_choices_by_a_number_of_a_table_with_gaps() -> None:
    fields = {"question": "q", "choices": ["x", "y"], "answer": 1.0}
    assert one(fields, Choice) == Choice("file line 1", "q", ("x", "y"), 1)


@pytest.mark.parametrize(
    ("choices", "gold"),
    [
        (["a", "b"], "1"),
        ('["a", "b"]', "1"),
        ({"A": "a", "B": "b"}, "B"),
        ([{"text": "a", "label": "1"}, {"text": "b", "label": "2"}], "2"),
        ({"text": ["a", "b"], "label": ["1", "2"]}, "2"),
    ],
)
def test_choices_in_further_spellings(choices: Any, gold: Any) -> None:
    fields = {"question": "q", "choices": choices, "answer": gold}
    assert one(fields, Choice) == Choice("file line 1", "q", ("a", "b"), 1)


@pytest.mark.parametrize(
    ("given", "gold", "place"),
    [
        ({"A": "a", "B": "b", "C": "c"}, "C", 2),
        ({"A": "a", "B": "b", "C": "c"}, 2, 2),
        ({"option_a": "a", "option_b": "b", "option_c": "c"}, "b", 1),
        ({"option_a": "a", "option_b": "b", "option_c": "c"}, "B", 1),
        ({"C": "c", "B": "b", "A": "a", "D": None}, "A", 0),
    ],
)
def test_choices_in_fields_of_their_own(given: dict[str, Any], gold: Any, place: int) -> None:
    """MMLU's; without them a model would learn the letter of what it is not shown."""
    assert parse_for({"question": "q", **given, "answer": gold}, "sft") == Choice(
        "file line 1", "q", ("a", "b", "c"), place
    )


@pytest.mark.parametrize(
    ("given", "gold", "texts", "place"),
    [
        ({"A": 0, "B": 1, "C": 2}, "A", ("0", "1", "2"), 0),
        ({"A": 0, "B": 1, "C": 2}, "C", ("0", "1", "2"), 2),
        ({"A": "a", "B": None, "C": "c", "D": "d"}, "D", ("a", "c", "d"), 2),
        ({"A": "a", "B": None, "C": "c", "D": "d"}, 2, ("a", "c", "d"), 1),
        ({"A": "x", "B": "y"}, "(B)", ("x", "y"), 1),
        ({"A": "x", "B": "y"}, "B.", ("x", "y"), 1),
        ({"A": "x", "B": "y"}, "y", ("x", "y"), 1),
        ({"A": "x", "B": "y"}, "1", ("x", "y"), 1),
        ({"A": "1", "B": "0"}, "1", ("1", "0"), 0),
        ({"Option A": "x", "Option B": "y"}, "B", ("x", "y"), 1),
        ({"option_A": "x", "option_B": "y"}, "option_B", ("x", "y"), 1),
    ],
)
def test_the_right_one_of_choices_in_fields_of_their_own(
    given: dict[str, Any], gold: Any, texts: tuple[str, ...], place: int
) -> None:
    for names in (("question", "answer"), ("Question", "Answer")):
        fields = dict(zip(names, ("q", gold), strict=True)) | given
        assert parse_for(fields, "sft") == Choice("file line 1", "q", texts, place)


def test_context_and_system_of_choices_in_fields_of_their_own() -> None:
    fields = {"context": "c", "question": "q", "A": "a", "B": "b", "answer": "B"}
    assert parse_for(fields, "sft") == Choice("file line 1", "c\n\nq", ("a", "b"), 1)
    talk = parse_for({**fields, "system": "s"}, "sft")
    assert type(talk) is Chat
    assert type(parse_for({**fields, "answer": "because of B"}, "sft")) is Chat
    rows = [("file line 1", fields), ("file line 2", {**fields, "B": None})]
    told = list[Any]()
    list(parse_rows(rows, (Choice,), on_bad=told.append))
    assert "none of the choices A" in str(told[0])


def test_of_choices_in_fields_of_their_own_only_others_are_unread() -> None:
    unread = list[Any]()
    fields = {"question": "q", "A": "a", "B": "b", "C": "c", "answer": "A", "subject": "s"}
    list(parse_rows([("file line 1", fields)], (Chat, Choice), on_unread=unread.append))
    assert unread == [["subject"]]
    for answer in ("C", ["A"], None, 5):
        refused({"question": "q", "A": "a", "B": "b", "answer": answer}, Choice)


# What several formats share


@pytest.mark.parametrize(
    ("before", "transcript", "joined"),
    [
        ((ASK,), (SAY,), (ASK, SAY)),
        ((ASK,), (ASK, SAY), (ASK, SAY)),
        ((BRIEF, ASK), (ASK, SAY), (BRIEF, ASK, SAY)),
        ((ASK,), (BRIEF, ASK, SAY), (BRIEF, ASK, SAY)),
        ((BRIEF, ASK), (BRIEF, ASK, SAY), (BRIEF, ASK, SAY)),
        ((ASK, SAY, ASK), (ASK, NO), (ASK, SAY, ASK, NO)),
        ((), (ASK, SAY), (ASK, SAY)),
    ],
)
def test_a_transcript_may_repeat_what_comes_before_it(before: Any, transcript: Any, joined: Any) -> None:
    assert join_transcript(WHERE, before, transcript) == joined


def test_an_answer_of_one_plain_message_is_its_text() -> None:
    assert simplify_answer((SAY,)) == "a"
    for answer in ((SAY, ASK), (Message("assistant", "a", 0.5),), (Message("assistant", "a", more={"name": "x"}),)):
        assert simplify_answer(answer) is answer


@pytest.mark.parametrize(
    ("answers", "first"),
    [
        ("a", "a"),
        (["a", "b"], "a"),
        ({"text": ["a"], "answer_start": [3]}, "a"),
        ([{"text": "a"}], "a"),
        ([{"content": "a"}], "a"),
        ([], []),
        (None, None),
    ],
)
def test_the_first_of_several_answers(answers: Any, first: Any) -> None:
    assert first_answer(answers) == first


def test_numbers_as_text() -> None:
    values = (3, 3.0, 0.5, True, None, "3.0")
    assert [number_as_text(value) for value in values] == ["3", "3", "0.5", True, None, "3.0"]


@pytest.mark.parametrize(
    ("value", "similarity"),
    [(0, 0.0), ("1", 1.0), (0.25, 0.25), (True, 1.0), (1.01, None), (-1, None), ("x", None), (10**400, None)],
)
def test_similarities_are_from_0_to_1(value: Any, similarity: float | None) -> None:
    assert parse_similarity(value) == similarity


def test_lists_of_spans_are_distinguished_from_lists_of_labels() -> None:
    assert all(map(are_spans, ([{"start": 0}], [[0, 1, "P"]], {"entities": []})))
    assert not any(map(are_spans, ([], ["a"], "a", {"labels": []}, [{"start": 0}, "a"])))


def test_quoted_values_are_short_and_printable() -> None:
    assert quote({"a": "é"}) == '{"a": "é"}'
    assert quote("\ud800") == '"\\ud800"'
    assert len(quote("x" * 1000)) == 201
