"""Rows as people write them, further members: other names, other nesting, cells of tables, and what is told of each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from test_prompt_formats import ASK, BOT, BRIEF, NO, PASSAGE, SAY, SYSTEM, TOOL, USER, learned, one, refused

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
    Tagged,
    Unpaired,
)
from bottega.records.parser import parse_rows
from making import placed

WORSE = {"role": "assistant", "content": "b"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "User", "content": "q"}, {"role": "ASSISTANT ", "content": "a"}],
        [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}],
        [{"role": "user", "value": "q"}, {"role": "assistant", "value": "a"}],
        [{"from": "human", "content": "q"}, {"from": "gpt", "content": "a"}],
        [{"author": "user", "content": "q"}, {"author": "assistant", "content": "a"}],
        [{"speaker": "prompter", "text": "q"}, {"speaker": "AI", "text": "a"}],
        json.dumps([USER, BOT]),
        str([USER, BOT]),
    ],
)
def test_who_speaks_and_what_is_said_goes_by_many_names(turns: Any) -> None:
    assert learned({"messages": turns}, "sft") == Chat("file line 1", (ASK, SAY))


@pytest.mark.parametrize(
    "called",
    [
        {"name": "f", "arguments": {"x": 1}},
        {"name": "f", "parameters": {"x": 1}},
        {"name": "f", "args": '{"x": 1}'},
        {"type": "function", "function": {"name": "f", "parameters": {"x": 1}}},
        {"type": "function", "name": "f", "input": {"x": 1}},
    ],
)
def test_arguments_of_a_call_are_kept_whatever_they_are_called(called: Any) -> None:
    for turn in (
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "assistant", "tool_calls": called},
        {"from": "function_call", "value": json.dumps(called)},
        {"from": "tool_call", "value": json.dumps([called])},
    ):
        record = one({"conversations": [USER, turn, {"from": "observation", "value": "r"}, BOT]}, Chat)
        assert record.messages[1].more["tool_calls"] == [CALL]


def test_a_single_tool_is_a_list_of_one() -> None:
    for given in (TOOL, TOOL["function"], json.dumps(TOOL), str([TOOL])):
        assert one({"messages": [USER, BOT], "tools": given}, Chat).tools == (TOOL,)


def test_two_system_messages_that_differ_are_no_conversation() -> None:
    for fields, kind in (
        ({"messages": [SYSTEM, USER, BOT]}, "sft"),
        ({"prompt": "q", "chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, WORSE]}, "dpo"),
        ({"messages": [SYSTEM, USER, BOT], "label": True}, "kto"),
        ({"prompt": [SYSTEM, USER], "answer": "a"}, "grpo"),
    ):
        assert learned({**fields, "system": " Be brief.\n"}, kind)
        with pytest.raises(Exception, match="which is different"):
            learned({**fields, "system": "Be long."}, kind)


def test_what_stands_before_a_transcript_follows_its_system_message() -> None:
    rows = {"history": [["q", "b"]], "chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, WORSE]}
    assert one(rows, Preference).prompt == (BRIEF, ASK, NO, ASK)


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        ({"query": "q", "response": "a"}, Chat("file line 1", (ASK, SAY))),
        ({"question": "q", "response": "a"}, Chat("file line 1", (ASK, SAY))),
        ({"problem": "q", "output": "a"}, Chat("file line 1", (ASK, SAY))),
        ({"input": "q", "output": "a"}, Chat("file line 1", (ASK, SAY))),
        ({"inputs": "q", "targets": "a"}, Chat("file line 1", (ASK, SAY))),
        ({"instruction": "q", "completion": "a"}, Chat("file line 1", (ASK, SAY))),
        ({"Question": "q", " Answer ": "a", "ID": 3}, Chat("file line 1", (ASK, SAY))),
        ({"prompt": "q", "output": "a"}, Prompted("file line 1", "q", "a")),
        ({"prompt": json.dumps([USER]), "completion": json.dumps([BOT])}, Chat("file line 1", (ASK, SAY))),
        ({"prompt": "[q]", "completion": '["a"]'}, Prompted("file line 1", "[q]", '["a"]')),
        ({"prompt": "q", "completion": '[{"role": "CEO"}]'}, Prompted("file line 1", "q", '[{"role": "CEO"}]')),
        ({"text": "q", "summary": "a"}, Chat("file line 1", (Message("user", "Summarise:\n\nq"), SAY))),
    ],
)
def test_questions_and_answers_go_by_many_names(fields: dict[str, Any], record: Any) -> None:
    assert learned(fields, "sft") == record


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"input": "q", "chosen": "a", "rejected": "b"}, (ASK,)),
        ({"Prompt": "q", "Chosen": "a", "Rejected": "b"}, "q"),
        ({"prompt": "q", "accepted": "a", "rejected": "b"}, "q"),
        ({"prompt": "q", "chosen": json.dumps([USER, BOT]), "rejected": str([USER, WORSE])}, (ASK,)),
        ({"prompt": json.dumps([SYSTEM, USER]), "chosen": "a", "rejected": "b"}, (BRIEF, ASK)),
        ({"question": "q", "context": "c", "accepted": "a", "dispreferred": "b"}, (PASSAGE,)),
    ],
)
def test_preferences_in_further_spellings(fields: dict[str, Any], prompt: Any) -> None:
    assert learned(fields, "dpo") == Preference("file line 1", prompt, "a", "b")


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
def test_verdicts_in_further_spellings(fields: dict[str, Any], prompt: Any, good: bool) -> None:
    assert learned(fields, "kto") == Unpaired("file line 1", prompt, "a", good)


def test_a_label_beside_a_conversation_is_a_verdict_only_where_nothing_else_is_learned_of_it() -> None:
    assert learned({"messages": [USER, BOT], "label": 1}, "sft") == Chat("file line 1", (ASK, SAY))


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
def test_right_answers_in_further_spellings(fields: dict[str, Any]) -> None:
    record = one(fields, Posed)
    assert (record.prompt, record.right) == ((ASK,), "4")


def test_an_answer_that_a_table_leaves_empty_is_none() -> None:
    assert one({"question": "q", "answer": ""}, Posed) == Posed(
        "file line 1", (ASK,), row={"question": "q", "answer": ""}
    )


# Spans, tags, labels


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


def test_a_span_that_says_another_text_than_it_marks_is_told() -> None:
    # The end counted with the last character; characters counted as UTF-16 has them; as bytes.
    for text, start, end in (("Mara ran", 0, 3), ("😀 Mara ran", 3, 7), ("à Mara ran", 3, 7)):
        error = refused({"text": text, "spans": [{"start": start, "end": end, "label": "P", "text": "Mara"}]}, Tagged)
        assert '"Mara"' in error.what
        assert error.where == "file line 1, field spans[0]"


def test_a_task_that_nobody_annotated_marks_nothing_for_certain() -> None:
    marked = {"result": [{"value": {"start": 0, "end": 4, "text": "Mara", "labels": ["P"]}}]}
    data = {"data": {"text": "Mara ran"}}
    expected = Tagged("file line 1", "Mara ran", (Entity(0, 4, "P"),))
    assert one({**data, "annotations": [{"was_cancelled": True, "result": []}, marked]}, Tagged) == expected
    assert one({**data, "annotations": [{"result": []}]}, Tagged).spans == ()
    for none in ([], [{"was_cancelled": True, "result": []}]):
        assert refused({**data, "annotations": none}, Tagged).what == "no annotated text"


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


def test_labels_of_a_table() -> None:
    assert learned({"Text": "x", "Label": " spam"}, "classify") == Labelled("file line 1", "x", "spam")
    assert learned({"text": "x", "labels": "['a', 'b']"}, "classify") == Multilabelled("file line 1", "x", ("a", "b"))
    assert learned({"text": "x", "label": " 1.0 "}, "classify").label == "1"


# Pairs, choices


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
    assert learned(fields, "contrastive") == Paired("file line 1", "a", "b", ("c",))


def test_several_positives_are_several_rows() -> None:
    assert "a row for each" in str(refused({"query": "a", "pos": ["b", "c"], "neg": []}, Paired).fix)


def test_texts_that_are_compared_in_further_spellings() -> None:
    for names in (("sentence_A", "sentence_B", "score"), ("question1", "question2", "is_duplicate")):
        fields = dict(zip(names, ("a", "b", 1), strict=True))
        assert learned(fields, "contrastive") == Compared("file line 1", "a", "b", 1.0)


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
    assert learned({"question": "q", **given, "answer": gold}, "sft") == Choice(
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
        assert learned(fields, "sft") == Choice("file line 1", "q", texts, place)


def test_what_such_choices_are_about_stands_before_the_question() -> None:
    fields = {"context": "c", "question": "q", "A": "a", "B": "b", "answer": "B"}
    assert learned(fields, "sft") == Choice("file line 1", "c\n\nq", ("a", "b"), 1)
    talk = learned({**fields, "system": "s"}, "sft")
    assert type(talk) is Chat
    assert type(learned({**fields, "answer": "because of B"}, "sft")) is Chat
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
        assert learned(fields, objective) == Labelled("file line 1", "a\nb", "2")
    assert "no label" in refused({first: "a", second: "b", label: None}, Labelled).what
    assert "empty" in refused({first: "a", second: " ", label: 2}, Labelled).what


@pytest.mark.parametrize("name", ["class", "sentiment", "topic", "rating", "stars", "score"])
def test_a_label_by_other_names(name: str) -> None:
    """They stand back behind those that say that they are a label."""
    assert learned({"text": "x", name: "good"}, "classify") == Labelled("file line 1", "x", "good")
    assert learned({"Text": "x", name.title(): "good"}, "classify") == Labelled("file line 1", "x", "good")
    for usual in ("label", "intent", "labels", "Label"):
        assert learned({"text": "x", name: "good", usual: "bad"}, "classify") == Labelled("file line 1", "x", "bad")
    for several in ("labels", "categories"):
        found = learned({"text": "x", name: "good", several: ["a", "b"]}, "classify")
        assert found == Multilabelled("file line 1", "x", ("a", "b"))


def test_a_text_beside_which_stands_none_is_read_alone() -> None:
    for beside in ({"question": None}, {"premise": ""}, {"query": 17}):
        fields = {"sentence": "s", "label": "a", **beside}
        assert learned(fields, "classify") == Labelled("file line 1", "s", "a")
    assert learned({"document": "d", "query": "q-17", "label": "a"}, "classify") == Labelled("file line 1", "d", "a")


# Files


def test_a_table_with_names_in_capitals_is_read_and_told_of_what_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Nr, Question, Answer\n1,q,a\n2,q,b\n", encoding="utf-8")
    told, unread = list[str](), list[Any]()
    found = list(
        parse_rows(placed(path), (Chat,), on_format=lambda name, _: told.append(name), on_unread=unread.append)
    )
    assert [record.messages[1].content for record in found] == ["a", "b"]
    assert (told, unread) == (["question"], [["nr"]])


def test_names_that_differ_in_capitals_alone_stay_as_they_are() -> None:
    assert "no format" in refused({"Question": "q", "QUESTION": "r", "Answer": "a"}, Chat).what


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


def test_what_a_prompt_was_made_of_is_not_asked_in_its_place() -> None:
    for name in ("question", "query", "input"):
        row = {"prompt": "P: q", "completion": " C", name: "q"}
        assert one(row, Chat, Prompted) == Prompted("file line 1", "P: q", " C")


def test_a_level_beside_an_answer_is_no_verdict() -> None:
    for level in (0, 1):
        row = {"question": "q", "answer": "a", "label": level}
        assert learned(row, "sft") == Chat("file line 1", (ASK, SAY))
    assert learned({"question": "q", "answer": "a", "label": False}, "kto").desirable is False


def test_values_for_the_template_make_a_prompt_a_conversation() -> None:
    row = {"prompt": "q", "completion": "a", "chat_template_kwargs": {"deep": True}}
    found = learned(row, "kto" if "label" in row else "sft")
    assert (found.messages, found.variables) == ((ASK, SAY), {"deep": True})


def test_system_messages_of_history_and_conversation_are_compared() -> None:
    other = {"role": "system", "content": "something else"}
    row = {"system": BRIEF.content, "history": [["a", "b"]], "messages": [other, USER, BOT]}
    assert "a system message of its own" in refused(row, Chat).what
    row = {"history": [["a", "b"]], "messages": [SYSTEM, USER, BOT]}
    past = (Message("user", "a"), Message("assistant", "b"))
    assert learned(row, "sft").messages == (BRIEF, *past, ASK, SAY)
