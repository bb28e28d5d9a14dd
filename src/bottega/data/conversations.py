"""Fields → messages and tools: OpenAI's way of writing them, ShareGPT's, and one question with its answer."""

from __future__ import annotations

from typing import Any

from bottega.data.fields import Fields, from_json, string
from bottega.errors import DataError
from bottega.records import Chat, Message, Tools

ROLES = ("system", "developer", "user", "assistant", "tool")
OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function": "tool",
}
"""What ShareGPT and others call them."""

MORE = ("tool_calls", "tool_call_id", "name", "reasoning_content")
"""What a message may hold besides role, content and weight, and templates show."""

MOST_WEIGHT = 1e6
"""A larger weight of a message is a slip, and overflows."""


def asked(where: str, *said: str, answer: str, system: str = "") -> Chat:
    """A conversation of one question and its answer."""
    return Chat(where, (*asking(*said, system=system), Message("assistant", answer)))


def asking(*said: str, system: str = "") -> tuple[Message, ...]:
    user = Message("user", "\n\n".join(part for part in said if part))
    return (Message("system", system), user) if system else (user,)


def messages(where: str, fields: Fields, name: str = "messages") -> tuple[Message, ...]:
    turns = fields[name]
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{name} is not a list of messages",
            where=f"{where}, field {name}",
            fix='write [{"role": "user", "content": "…"}, …]',
        )
    return tuple(_message(f"{where}, field {name}[{index}]", turn) for index, turn in enumerate(turns))


def _message(where: str, turn: Any) -> Message:
    """One message, with OpenAI's keys (role, content, tool_calls …) or ShareGPT's (from, value)."""
    turn = {"role": turn["from"], "content": turn["value"]} | turn if _is_sharegpt(turn) else turn
    if not isinstance(turn, dict) or "role" not in turn or not ("content" in turn or turn.get("tool_calls")):
        raise DataError("a message without role or content", where=where, fix='write {"role": …, "content": …}')
    if turn["role"] == "function_call":
        turn = {**turn, "role": "assistant", "content": None, "tool_calls": [from_json(where, turn["content"])]}
    role = OTHER_ROLES.get(turn["role"], turn["role"]) if isinstance(turn["role"], str) else turn["role"]
    if role not in ROLES:
        raise DataError(f"unknown role {turn['role']!r}", where=where, fix=f"one of: {', '.join(ROLES)}")
    calls = _calls(where, turn.get("tool_calls"))
    content = _content(where, turn, role, bool(calls))
    weight = turn.get("weight")
    weight = 1 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= MOST_WEIGHT:
        raise DataError(f"weight {weight!r}", where=where, fix="a number from 0 (no loss) up; 1 is the usual")
    more = {name: turn[name] for name in MORE if turn.get(name) is not None} | ({"tool_calls": calls} if calls else {})
    return Message(role, content, float(weight), more)


def _is_sharegpt(turn: Any) -> bool:
    return isinstance(turn, dict) and "from" in turn and "value" in turn


def _content(where: str, turn: Fields, role: str, calling: bool) -> str:
    """The text of a message; OpenAI also writes it as a list of parts, and null beside calls."""
    content = turn.get("content")
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        if None in parts:
            raise DataError(
                "content that is no text",
                where=f"{where}, field content",
                fix="only parts of type text can be trained on",
            )
        content = "".join(part for part in parts if part is not None)
    if content is None and calling:
        content = ""
    return string(where, {"content": content}, "content", empty=role != "assistant" or calling)


def _part(part: Any) -> str | None:
    """The text of a part of a message; None for an image, or whatever else it is."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") not in ("text", "input_text", "output_text"):
        return None
    text = part.get("text", part.get("value"))
    return text if isinstance(text, str) else None


def _calls(where: str, calls: Any) -> list[Fields]:
    """Tool calls as templates take them: `{type, function: {name, arguments}}`, the arguments an object."""
    if not calls:
        return []
    if not isinstance(calls, list):
        raise DataError(
            "tool_calls is not a list", where=where, fix='write [{"function": {"name": …, "arguments": …}}]'
        )
    found = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(
                "a tool call without a name", where=where, fix='write {"function": {"name": …, "arguments": …}}'
            )
        arguments = function.get("arguments", {})
        arguments = from_json(where, arguments) if isinstance(arguments, str) else arguments
        kept = {name: value for name, value in call.items() if name not in ("function", "name", "arguments")}
        found.append({"type": "function", **kept, "function": {**function, "arguments": arguments}})
    return found


def tools(where: str, fields: Fields) -> Tools:
    """Descriptions of functions, as a list or as the JSON of one."""
    tools = fields.get("tools")
    tools = from_json(f"{where}, field tools", tools) if isinstance(tools, str) and tools.strip() else tools
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools is not a list of functions", where=f"{where}, field tools", fix='write [{"type": …}]')
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)
