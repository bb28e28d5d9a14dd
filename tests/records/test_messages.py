"""Messages, tools and values for the chat template, in the notations of OpenAI, ShareGPT and others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from parsed_rows import ASK, BOT, SAY, SPOKEN, TALK, TOOL, USER, one, parse_for, refused

from bottega.errors import DataError
from bottega.records import (
    Chat,
    Message,
)
from bottega.records.messages import ROLES, parse_messages, parse_tools

HALF = "x\ud800"


def read(*turns: Any) -> tuple[Message, ...]:
    return parse_messages("rows.jsonl line 3", {"messages": list(turns)})


def assistant(**more: Any) -> Message:
    return read({"role": "assistant", "content": "Ten.", **more})[0]


@pytest.mark.parametrize("name", ["thinking", "reasoning", "reasoning_content", "name", "channel", "anything"])
def test_every_field_of_a_message_goes_to_its_template(name: str) -> None:
    assert assistant(**{name: "x", "other": None}).turn() == {"role": "assistant", "content": "Ten.", name: "x"}
    assert read({"from": "gpt", "value": "Ten.", name: ["x"]})[0].turn() == {
        "role": "assistant",
        "content": "Ten.",
        name: ["x"],
    }


LEAVES_OUT = [
    {"weight": 0},
    *({name: False} for name in ("train", "training", "trainable", "loss", "learn")),
    *({name: 0} for name in ("loss_weight", "loss_mask", "loss_scale", "train")),
    *({name: True} for name in ("masked", "ignore", "no_loss")),
    {"weight": 1, "train": False},
]


@pytest.mark.parametrize("flags", LEAVES_OUT, ids=str)
def test_a_turn_that_other_tools_leave_out_is_left_out(flags: dict[str, Any]) -> None:
    left = assistant(**flags)
    assert left.weight == 0
    assert left.turn() == {"role": "assistant", "content": "Ten."}


@pytest.mark.parametrize(
    ("flags", "weight"),
    [
        ({"train": True}, 1),
        ({"loss": True}, 1),
        ({"masked": False}, 1),
        ({"loss_weight": 0.5}, 0.5),
        ({"train": None}, 1),
    ],
)
def test_a_turn_that_other_tools_learn_is_learned(flags: dict[str, Any], weight: float) -> None:
    assert assistant(**flags).weight == weight


@pytest.mark.parametrize(
    "flags",
    [
        {"train": "no"},
        {"loss_mask": [0, 1]},
        {"weight": True},
        {"loss": -1},
        {"train_detail": [{"begin_offset": 0, "end_offset": 2, "train": False}]},
        {"mask": 1},
    ],
    ids=str,
)
def test_a_flag_that_says_something_else_is_refused_with_the_way_to_say_it(flags: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        assistant(**flags)
    field = next(iter(flags))
    assert caught.value.where == "rows.jsonl line 3, field messages[0]" + (
        "" if field == "weight" else f", field {field}"
    )
    assert '"weight": ' in str(caught.value.fix)


CALLED = {"type": "function", "function": {"name": "hour", "arguments": {}}}


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "function_call", "value": json.dumps([{"name": "hour", "arguments": {}}])},
        {"from": "function_call", "value": json.dumps({"name": "hour", "arguments": None})},
        {"role": "assistant", "content": None, "function_call": {"name": "hour", "arguments": ""}},
        {"role": "assistant", "function_call": {"name": "hour"}},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "hour", "arguments": "null"}}]},
        {"role": "assistant", "tool_calls": json.dumps([{"name": "hour", "arguments": "{}"}])},
    ],
    ids=str,
)
def test_calls_however_they_are_written(turn: dict[str, Any]) -> None:
    assert read(turn)[0].more == {"tool_calls": [CALLED]}


def test_several_calls_of_sharegpt() -> None:
    value = [{"name": "hour", "arguments": {"n": 1}}, {"name": "day", "arguments": '{"n": 2}'}]
    (found,) = read({"from": "function_call", "value": json.dumps(value)})
    assert [call["function"]["arguments"] for call in found.more["tool_calls"]] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        ({"content": HALF}, "content"),
        ({"content": "", "tool_calls": [{"name": "f", "arguments": {"a": [HALF]}}]}, "tool_calls"),
        ({"content": "", "tool_calls": [{"name": HALF, "arguments": {}}]}, "tool_calls"),
        ({"content": "", "tool_calls": [{"name": "f", "arguments": json.dumps({HALF: 1})}]}, "tool_calls"),
        ({"content": "Ten.", "reasoning_content": HALF}, "reasoning_content"),
        ({"content": "Ten.", "thinking": HALF}, "thinking"),
        ({"content": "Ten.", "name": HALF}, "name"),
    ],
    ids=lambda value: str(value).encode("ascii", "replace").decode(),
)
def test_half_a_character_names_its_field(turn: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match="contains half a character") as caught:
        read({"role": "assistant", **turn})
    assert caught.value.where == f"rows.jsonl line 3, field messages[0], field {field}"


def test_half_a_character_in_tools() -> None:
    with pytest.raises(DataError, match="tools contains half a character") as caught:
        parse_tools("rows.jsonl line 3", {"tools": [{"name": "f", "description": HALF}]})
    assert caught.value.where == "rows.jsonl line 3, field tools"


def test_deep_nesting_is_a_data_error() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deeply"):
        assistant(notes=deep)


def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "value": "b"}, {"type": "text", "content": "c"}, "d"]
    assert read({"role": "user", "content": parts})[0].content == "abcd"
    with pytest.raises(DataError, match="content that is not text"):
        read({"role": "user", "content": [{"type": "image", "image": "x"}]})


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_read(role: str) -> None:
    talk = [{"role": role, "content": "x"}, *TALK]
    assert one({"messages": talk}).messages == (Message(role, "x"), *SPOKEN)


def test_weights_are_read() -> None:
    talk = [dict(turn, weight=weight) for turn, weight in zip(TALK * 2, (1, 0, 0.5, 2), strict=True)]
    assert [message.weight for message in one({"messages": talk}).messages] == [1.0, 0.0, 0.5, 2.0]


@pytest.mark.parametrize("weight", [-1, -0.5, "1", True, [1], float("nan"), float("inf")])
def test_a_weight_is_a_number_from_0_up(weight: Any) -> None:
    refused(
        {"messages": [TALK[0], TALK[1] | {"weight": weight}]}, what="weight", where="file line 1, field messages[1]"
    )


def test_nan_in_json_is_not_a_weight() -> None:
    turn = json.loads('{"role": "assistant", "content": "a", "weight": NaN}')
    refused({"messages": [TALK[0], turn]}, what="weight")


@pytest.mark.parametrize("talk", [None, "hello", [], {}, 7])
def test_messages_are_a_list(talk: Any) -> None:
    refused({"messages": talk}, what="not a list of messages", where="file line 1, field messages")


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        ("hello", "without role or content"),
        (None, "without role or content"),
        ({"role": "user"}, "without role or content"),
        ({"content": "x"}, "without role or content"),
        ({"from": "human"}, "without role or content"),
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ({"role": None, "content": "x"}, "unknown role None"),
        ({"role": ["user"], "content": "x"}, "unknown role"),
        ({"role": "user", "content": None}, "not a string"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "not a string"),
        ({"role": "assistant", "content": ""}, "empty content"),
        ({"role": "assistant", "content": " \n"}, "empty content"),
    ],
)
def test_messages_are_checked(turn: Any, what: str) -> None:
    refused({"messages": [*TALK, turn]}, what=what, where="file line 1, field messages[2]")


def test_only_answers_must_say_something() -> None:
    talk = [{"role": "system", "content": ""}, {"role": "user", "content": " "}, TALK[1]]
    assert one({"messages": talk}).messages == (Message("system", ""), Message("user", " "), SPOKEN[1])


def test_a_conversation_needs_an_answer() -> None:
    refused({"messages": TALK[:1]}, what="no assistant message", where="file line 1, field messages")


def test_sharegpt_conversations() -> None:
    fields = {
        "system": "be brief",
        "conversations": [
            {"from": "human", "value": "weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
            {"from": "observation", "value": "sun"},
            {"from": "gpt", "value": "Sun."},
        ],
        "tools": '[{"name": "weather", "parameters": {}}]',
    }
    record = one(fields, Chat)
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    assert record.messages[2].more == {"tool_calls": [call]}
    assert record.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def test_openai_messages_with_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    fields = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
            {"role": "assistant", "content": "seven", "weight": None, "tool_calls": None},
        ],
        "tools": [tool],
    }
    record = one(fields, Chat)
    assert [message.content for message in record.messages] == ["ab", "", "7", "seven"]
    assert [message.weight for message in record.messages] == [1, 0, 1, 1]
    assert record.messages[1].more["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert record.messages[2].more == {"tool_call_id": "c1"}
    assert record.tools == (tool,)


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        ({"role": "assistant", "tool_calls": "f"}, "not a list"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "without a name"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}, "not JSON"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}, "not text"),
        ({"from": "function_call", "value": "f()"}, "not JSON"),
        ({"from": "narrator", "value": "x"}, "unknown role"),
    ],
)
def test_calls_and_parts_are_checked(turn: dict[str, Any], what: str) -> None:
    refused({"messages": [{"role": "user", "content": "q"}, turn]}, Chat, what=what)


def test_tools_are_checked() -> None:
    refused({"messages": TALK, "tools": "{x"}, Chat, what="not JSON")
    refused({"messages": TALK, "tools": 5}, Chat, what="not a list")


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
def test_roles_and_contents_by_other_names(turns: Any) -> None:
    assert parse_for({"messages": turns}, "sft") == Chat("file line 1", (ASK, SAY))


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
def test_arguments_of_a_call_by_other_names(called: Any) -> None:
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
