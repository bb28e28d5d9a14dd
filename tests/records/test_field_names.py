"""Fields by the names that files give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from parsed_rows import ASK, BOT, ROWS, SAY, SFT, TALK, USER, one, parse_for

from bottega.records import (
    Chat,
    Choice,
    Labelled,
    Message,
    Multilabelled,
    Paired,
    Prompted,
    Tagged,
    Unpaired,
)
from bottega.records.field_names import (
    CHOICE_FIELDS,
    CHOSEN_FIELDS,
    COMPLETION_FIELDS,
    LABEL_FIELDS,
    MESSAGE_FIELDS,
    NEGATIVE_FIELD,
    REJECTED_FIELDS,
    TEXT_FIELDS,
)


@pytest.mark.parametrize(
    ("fields", "reads", "same_as"),
    [
        ({"conversations": TALK}, SFT, "messages"),
        ({"instruction": "q", "response": "a"}, SFT, "instruction"),
        ({"instruction": "q", "response": "a", "context": ""}, SFT, "instruction"),
        ({"question": "q", "answers": ["a", "b"]}, SFT, "question"),
        ({"question": "q", "answers": [{"text": "a", "answer_start": 3}], "id": "7"}, SFT, "question"),
        ({"question": "q", "answers": {"text": ["a"], "answer_start": [3]}}, SFT, "question"),
        ({"article": "q", "highlights": "a"}, SFT, "summary"),
        ({"source": ["q"], "target": ["a", "b"]}, SFT, "summary"),
        ({"prompt": "q", "response": "a"}, SFT, "prompted"),
        ({"sentence": "t", "category": "l"}, (Labelled,), "labelled"),
        ({"words": ["t"], "ner_tags": ["O"]}, (Tagged,), "conll"),
        ({"text": "t", "entities": []}, (Tagged,), "spans"),
        ({"query": "q", "options": ["a", "b"], "answer": "A"}, (Choice,), "choice"),
        (
            {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"},
            (Choice,),
            "choice",
        ),
        ({"prompt": "q", "completion": "a", "label": "True"}, (Unpaired,), "unpaired"),
    ],
)
def test_a_field_may_have_another_name(fields: dict[str, Any], reads: tuple[type, ...], same_as: str) -> None:
    assert one(fields, *reads) == one(ROWS[same_as], *reads)


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
def test_questions_and_answers_by_other_names(fields: dict[str, Any], record: Any) -> None:
    assert parse_for(fields, "sft") == record


@pytest.mark.parametrize("name", ["class", "sentiment", "topic", "rating", "stars", "score"])
def test_a_label_by_other_names(name: str) -> None:
    """They stand back behind those that say that they are a label."""
    assert parse_for({"text": "x", name: "good"}, "classify") == Labelled("file line 1", "x", "good")
    assert parse_for({"Text": "x", name.title(): "good"}, "classify") == Labelled("file line 1", "x", "good")
    for usual in ("label", "intent", "labels", "Label"):
        assert parse_for({"text": "x", name: "good", usual: "bad"}, "classify") == Labelled("file line 1", "x", "bad")
    for several in ("labels", "categories"):
        found = parse_for({"text": "x", name: "good", several: ["a", "b"]}, "classify")
        assert found == Multilabelled("file line 1", "x", ("a", "b"))


@pytest.mark.parametrize("name", ["negative", "negatives", "neg", "hard_negative", "hard_neg_2", "negative_10", "neg1"])
def test_negatives_by_other_names(name: str) -> None:
    assert NEGATIVE_FIELD.fullmatch(name)
    assert one({"anchor": "a", "positive": "b", name: "c"}, Paired).negatives == ("c",)


@pytest.mark.parametrize("name", ["negation", "positive", "hard", "neg_x", "easy_negative"])
def test_other_fields_are_no_negatives(name: str) -> None:
    assert NEGATIVE_FIELD.fullmatch(name) is None


def test_the_canonical_name_stands_first_in_every_list() -> None:
    wanted = {"messages": MESSAGE_FIELDS, "completion": COMPLETION_FIELDS, "chosen": CHOSEN_FIELDS}
    wanted |= {"rejected": REJECTED_FIELDS, "label": LABEL_FIELDS, "text": TEXT_FIELDS, "choices": CHOICE_FIELDS}
    for canonical, names in wanted.items():
        assert names[0] == canonical
        assert len(set(names)) == len(names)
