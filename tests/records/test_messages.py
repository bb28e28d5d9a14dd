"""Messages as people write them: what a template may show reaches it, what leaves a turn out is obeyed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bottega.errors import DataError
from bottega.records import Message
from bottega.records.messages import parse_messages, parse_tools

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
def test_half_a_character_is_told_by_field(turn: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match="contains half a character") as caught:
        read({"role": "assistant", **turn})
    assert caught.value.where == f"rows.jsonl line 3, field messages[0], field {field}"


def test_half_a_character_in_tools() -> None:
    with pytest.raises(DataError, match="tools contains half a character") as caught:
        parse_tools("rows.jsonl line 3", {"tools": [{"name": "f", "description": HALF}]})
    assert caught.value.where == "rows.jsonl line 3, field tools"


def test_what_is_nested_without_end_is_an_error_of_ours() -> None:
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
