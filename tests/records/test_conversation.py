"""Messages, prompts and answers as text, and what decides whether two of them teach the same."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.records import Message, answered
from bottega.records.conversation import (
    answer_text,
    before_first_answer,
    canonical_json,
    full_answer,
    message_extras,
    prompt_key,
    prompt_text,
    template_extras,
)

SYSTEM, ASK, SAY = Message("system", "s"), Message("user", "q"), Message("assistant", "a")
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def calling(**call: Any) -> Message:
    return Message("assistant", "", more={"tool_calls": [{**CALL, **call}]})


def test_a_message_as_a_chat_template_takes_it() -> None:
    assert Message("tool", "7", more={"name": "f"}).turn() == {"role": "tool", "content": "7", "name": "f"}
    assert Message("assistant", "a", 0.5).turn() == {"role": "assistant", "content": "a"}


def test_a_string_is_the_answer_of_one_message() -> None:
    assert answered("a") == (SAY,)
    assert answered((SAY, ASK)) == (SAY, ASK)


@pytest.mark.parametrize(
    ("messages", "key"),
    [
        ((SYSTEM, ASK, SAY, ASK), "system: s\nuser: q"),
        ((SAY, ASK, SAY), "assistant: a\nuser: q"),
        ((ASK, ASK), "user: q\nuser: q"),
        ((SAY,), ""),
        ((SYSTEM,), "system: s"),
    ],
)
def test_the_key_of_a_conversation_ends_before_the_first_answer_to_a_user(
    messages: tuple[Message, ...], key: str
) -> None:
    assert before_first_answer(messages) == prompt_key(messages) == key


def test_texts_of_prompts_and_answers() -> None:
    assert prompt_text((SYSTEM, Message("developer", "d"), ASK, SAY)) == "q\na"
    assert answer_text((SAY, Message("tool", "7"))) == "a\n7"
    assert (prompt_key("q"), prompt_text("q"), answer_text("a")) == ("q", "q", "a")


def test_ids_of_calls_and_the_order_of_keys_make_no_difference() -> None:
    assert canonical_json({"b": [{"id": "x", "a": 1}], "a": 2}) == canonical_json({"a": 2, "b": [{"a": 1, "id": "y"}]})
    assert canonical_json({"a": 1}) != canonical_json({"a": 2})
    assert canonical_json({}) == canonical_json(()) == ""
    assert message_extras((calling(id="1"),)) == message_extras((calling(id="2"),))
    other = calling(function={"name": "f", "arguments": {"x": 2}})
    assert message_extras((calling(),)) != message_extras((other,))


def test_plain_messages_have_no_extras() -> None:
    assert message_extras("q") == message_extras((ASK, SAY)) == template_extras((), {}) == ""


def test_what_a_message_teaches_beyond_its_content() -> None:
    reasoned = Message("assistant", "a", more={"reasoning": "r"})
    messages = [SAY, SYSTEM, Message("system", "t"), Message("assistant", "a", 0.5), reasoned, calling()]
    assert len({message_extras((ASK, message)) for message in messages}) == len(messages)


def test_full_answers_are_equal_where_they_teach_the_same() -> None:
    assert full_answer("a") == full_answer((SAY,)) == "a"
    assert full_answer((calling(id="1"),)) == full_answer((calling(id="2"),))
    distinct = ["a", (SAY, SAY), (calling(),), (Message("assistant", "a", more={"reasoning": "r"}),)]
    assert len({full_answer(answer) for answer in distinct}) == len(distinct)


def test_tools_and_variables_count() -> None:
    assert template_extras((CALL,), {}) == template_extras(({**CALL, "id": "x"},), {})
    assert len({template_extras(*given) for given in (((), {}), ((CALL,), {}), ((), {"think": True}))}) == 3
