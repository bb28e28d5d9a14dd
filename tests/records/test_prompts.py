"""Records of generated text: their keys, what an audit compares of them, and the texts they are encoded from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bottega.records import Chat, Choice, Message, Posed, Preference, Prompted, Record, Text, Unpaired

SYSTEM, ASK, SAY = Message("system", "s"), Message("user", "q"), Message("assistant", "a")
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("record", "key", "prompt", "answer"),
    [
        (Text("here", "abc"), "abc", "", "abc"),
        (Text("here", "abc", 2), "ab", "ab", "c"),
        (Prompted("here", "q", "a"), "q", "q", "a"),
        (Prompted("here", "", "a"), "a", "", "a"),
        (Chat("here", (SYSTEM, ASK, SAY, ASK, SAY)), "system: s\nuser: q", "q", "a\nq\na"),
        (Chat("here", (ASK,)), "user: q", "q", ""),
        (Preference("here", (SYSTEM, ASK), "a", (SAY, ASK)), "system: s\nuser: q", "q", "a\na\nq"),
        (Unpaired("here", "q", "a", False), "q", "q", "False a"),
        (Choice("here", "q", ("x", "y"), 1), "q", "q\nx\ny", "y"),
        (Posed("here", "q", "a"), "q", "q", "a"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Record) else "",
)
def test_keys_prompts_and_answers(record: Record, key: str, prompt: str, answer: str) -> None:
    parts = record.parts()
    assert (record.prompt_key, parts.prompt, parts.answer) == (key, prompt, answer)


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        (Text("here", "abc"), [("abc", False)]),
        (Text("here", "abc", 1), [("abc", True)]),
        (Prompted("here", "q", "a"), [("qa", True)]),
        (Preference("here", "q", "a", "b"), [("qa", True), ("qb", True)]),
        (Posed("here", "q"), [("q", True)]),
        # The text of a conversation is known only when its template has rendered it.
        (Chat("here", (ASK, SAY)), []),
        (Preference("here", (ASK,), "a", "b"), []),
        (Posed("here", (ASK,)), []),
        (Unpaired("here", (ASK,), "a", True), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Record) else "",
)
def test_texts_that_are_encoded_ahead(record: Record, texts: list[tuple[str, bool]]) -> None:
    assert list(record.texts_to_encode()) == texts


@pytest.mark.parametrize(
    "record",
    [
        Chat("here", (ASK, SAY)),
        Preference("here", (ASK,), "a", "b"),
        Unpaired("here", "q", "a", True),
        Posed("here", "q"),
    ],
    ids=lambda record: type(record).__name__,
)
@pytest.mark.parametrize("more", [{"tools": (TOOL,)}, {"variables": {"think": True}}], ids=["tools", "variables"])
def test_rows_that_differ_in_tools_or_variables_differ(record: Any, more: dict[str, Any]) -> None:
    assert replace(record, **more).parts().extras != record.parts().extras


def test_a_system_message_is_an_extra() -> None:
    plain, brief = (Chat("here", (*system, ASK, SAY)).parts() for system in ((), (SYSTEM,)))
    assert plain.content == brief.content
    assert plain.extras != brief.extras


def test_fields_that_a_reward_may_read_are_extras() -> None:
    row = {"prompt": "q", "answer": "a", "tests": ["x"]}
    posed = Posed("here", "q", "a", row=row)
    assert posed.parts().extras != Posed("here", "q", "a", row={**row, "tests": ["y"]}).parts().extras
    assert posed.parts().extras == Posed("here", "q", "a", row={**row, "question": "q"}).parts().extras


def test_a_choice_as_a_conversation() -> None:
    chat = Choice("here", "q", ("x", "y"), 1).as_chat()
    assert chat == Chat("here", (Message("user", "q\n- x\n- y"), Message("assistant", "y")))
