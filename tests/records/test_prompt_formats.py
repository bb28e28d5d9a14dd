"""Rows as people write them: the same record, whatever its fields are called and however they are nested."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bottega import objectives
from bottega.errors import DataError
from bottega.records import (
    Chat,
    Choice,
    Entity,
    Labelled,
    Message,
    Multilabelled,
    Posed,
    Preference,
    Prompted,
    Tagged,
    Unpaired,
    label_name,
)
from bottega.records.parser import parse_rows

ASK, SAY, NO = Message("user", "q"), Message("assistant", "a"), Message("assistant", "b")
BRIEF = Message("system", "Be brief.")
USER, BOT, BAD = ({"role": one.role, "content": one.content} for one in (ASK, SAY, NO))
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT, WORSE = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PASSAGE = Message("user", "c\n\nq")


def one(fields: dict[str, Any], *reads: type, **options: Any) -> Any:
    (record,) = parse_rows([("file line 1", fields)], reads, **options)
    return record


def learned(fields: dict[str, Any], kind: str) -> Any:
    return one(fields, *objectives.load(kind).reads)


def refused(fields: dict[str, Any], *reads: type) -> DataError:
    with pytest.raises(DataError) as caught:
        one(fields, *reads)
    return caught.value


# Preferences

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
        assert learned(fields, kind) == WHOLE


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
def test_what_is_asked_stands_before_both_answers_once(fields: dict[str, Any], prompt: Any) -> None:
    record = one(fields, Preference)
    assert (record.prompt, record.chosen, record.rejected) == (prompt, "a", "b")


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


# Prompts and completions

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
    assert learned(fields, "sft") == Chat("file line 1", messages)


def test_texts_stay_as_they_are() -> None:
    assert learned({"prompt": "q", "completion": "a", "system": ""}, "sft") == Prompted("file line 1", "q", "a")
    assert "no assistant message" in refused({"prompt": "q", "completion": [USER]}, Chat, Prompted).what


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
def test_what_was_said_before_is_kept(fields: dict[str, Any], messages: Any) -> None:
    assert learned(fields, "sft") == Chat("file line 1", messages)


def test_history_is_checked() -> None:
    for wrong in ([["q"]], ["q"], "q", [[1, 2]], [{"q": 1}]):
        assert "history" in str(refused({"history": wrong, "instruction": "q", "output": "a"}, Chat))


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, [], None])
def test_a_question_without_an_answer_says_so(answers: Any) -> None:
    error = refused({"question": "q", "context": "c", "answers": answers}, Chat)
    assert error.what == "no answer"
    assert "bad_rows" in str(error.fix)


# What a policy is asked


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
def test_posed(fields: dict[str, Any], prompt: Any, right: str) -> None:
    record = one(fields, Posed)
    assert (record.prompt, record.right, record.row) == (prompt, right, fields)


# Verdicts


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), (1, True), (0, False), ("1", True), (1.0, True), ("True", True), ("false", False)]
)
def test_a_verdict_may_be_a_number(label: Any, good: bool) -> None:
    expected = Unpaired("file line 1", "q", "a", good)
    assert learned({"prompt": "q", "completion": "a", "label": label}, "kto") == expected


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
def test_verdicts_of_conversations(fields: dict[str, Any], prompt: Any) -> None:
    assert learned(fields, "kto") == Unpaired("file line 1", prompt, "a", True)


def test_a_verdict_needs_an_answer() -> None:
    for fields in ({"prompt": "q", "completion": None}, {"messages": "x"}, {"prompt": "q", "completion": {"a": 1}}):
        assert refused({**fields, "label": True}, Unpaired)


def test_what_is_no_verdict_is_told() -> None:
    error = refused({"prompt": "q", "completion": "a", "label": "spam"}, Unpaired, Preference)
    assert "true or false, 1 or 0" in str(error.fix)
    assert type(learned({"prompt": "q", "completion": "a", "label": "spam"}, "sft")) is Prompted


# Labels


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        ("1.00", "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        ("1.5", "1.5"),
        ("007", "007"),
        ("10", "10"),
        (True, "true"),
        ("True", "true"),
        ("FALSE", "false"),
        ("Trueish", "Trueish"),
        (1e300, "1e+300"),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (["a"], None),
    ],
)
def test_a_label_is_one_however_it_is_written(value: Any, name: str | None) -> None:
    assert label_name(value) == name


def test_labels_of_rows() -> None:
    assert learned({"text": "t", "label": 1.0}, "classify") == Labelled("file line 1", "t", "1")
    assert learned({"text": "t", "label": False}, "classify") == Labelled("file line 1", "t", "false")
    assert learned({"text": "t", "labels": [0, 2.0]}, "classify") == Multilabelled("file line 1", "t", ("0", "2"))
    assert learned({"text": "t", "labels": "spam"}, "classify") == Labelled("file line 1", "t", "spam")
    for nothing in (None, float("nan")):
        assert refused({"text": "t", "label": nothing}, Labelled).what == "no label"
        assert refused({"text": "t", "labels": ["a", nothing]}, Multilabelled).what == "no labels"
    for label in ("P\ud800", ["a", "P\ud800"]):
        assert "half a character" in refused({"text": "t", "labels": label}, Labelled, Multilabelled).what


# Spans and tags

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
    assert learned(fields, "tag") == MARKED


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
def test_what_is_no_tag_is_named(tag: Any) -> None:
    error = refused({"tokens": ["a"], "tags": [tag]}, Tagged)
    assert "no tag" in error.what if tag in (None, -1) else repr(tag) in error.what


def test_choices_by_a_number_of_a_table_with_gaps() -> None:
    fields = {"question": "q", "choices": ["x", "y"], "answer": 1.0}
    assert one(fields, Choice) == Choice("file line 1", "q", ("x", "y"), 1)


# What is not read


def test_fields_that_nothing_reads_are_told() -> None:
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
