"""Parsing the messages and tools of a row, in the notations of OpenAI, ShareGPT and others."""

from __future__ import annotations

import json
from typing import Any

from bottega.errors import DataError
from bottega.records.conversation import Message, Tools, Variables
from bottega.records.field_names import VARIABLES_FIELD
from bottega.records.fields import SURROGATES, Fields, parse_json_field, require_string

# Keys for the speaker and for the content of a message: OpenAI's, ShareGPT's, and others'.
ROLE_KEYS = ("role", "from", "author", "speaker", "sender")
CONTENT_KEYS = ("content", "value", "text")

ROLES = ("system", "developer", "user", "assistant", "tool")
# Role names of ShareGPT and other formats → those of `ROLES`.
ROLE_ALIASES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
}

# Roles of messages whose content is tool calls as JSON.
TOOL_CALL_ROLES = ("function_call", "tool_call", "tool_calls")

# Keys for the arguments of a tool call.
ARGUMENT_KEYS = ("arguments", "parameters", "input", "args")

# Keys of a message that are interpreted here; all others are passed on to the chat template.
INTERPRETED_KEYS = ("role", "content", "weight", "tool_calls", "function_call")

# Other tools' keys for the loss weight of a message: true or a number includes it (first), true excludes it (second).
WEIGHT_KEYS = (
    "loss_weight", "loss_mask", "loss_scale", "loss", "train", "training", "trainable", "is_trainable", "learn",
)  # fmt: skip
MASK_KEYS = ("masked", "is_masked", "ignore", "ignore_loss", "no_loss", "skip_loss")

# Keys that are refused: they say more than one weight can, or mean opposite things in different tools.
AMBIGUOUS_KEYS = ("train_detail", "training_detail", "loss_detail", "mask", "label_mask", "labels_mask")

# Template variables that come from other fields of the row, and so cannot be set.
RESERVED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")

# A larger weight is a typing error, and would overflow in the loss.
MAX_WEIGHT = 1e6


def user_messages(*parts: str, system: str = "") -> tuple[Message, ...]:
    """A user message with the non-empty parts as paragraphs, after a system message if there is one."""
    user = Message("user", "\n\n".join(part for part in parts if part))
    return (Message("system", system), user) if system else (user,)


def parse_messages(where: str, fields: Fields, name: str = "messages") -> tuple[Message, ...]:
    """The messages in the field `name`; a DataError if it holds none."""
    turns = fields[name]
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{name} is not a list of messages",
            where=f"{where}, field {name}",
            fix='write [{"role": "user", "content": "…"}, …]',
        )
    return tuple(_parse_message(f"{where}, field {name}[{index}]", turn) for index, turn in enumerate(turns))


def is_message_list(value: Any) -> bool:
    """Whether a value is messages whose speakers are known, rather than any other list."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, dict) and _is_speaker(_rename_keys(item).get("role")) for item in value)


def _parse_message(where: str, turn: Any) -> Message:
    """One message, with OpenAI's keys (role, content, tool_calls …), ShareGPT's (from, value) or others'."""
    turn = _rename_keys(turn) if isinstance(turn, dict) else turn
    if not isinstance(turn, dict) or "role" not in turn or not _has_content(turn):
        raise DataError("a message without role or content", where=where, fix='write {"role": …, "content": …}')
    role, turn = _parse_role(where, turn)
    calls = _parse_calls(f"{where}, field tool_calls", turn.get("tool_calls"))
    content = _parse_content(where, turn, role, has_calls=bool(calls))
    weight = _parse_weight(where, turn)
    # Only assistant messages carry loss. A weight above 0 on any other message is left among the keys for the template,
    # so that it is reported as ignored.
    consumed = {*INTERPRETED_KEYS, *WEIGHT_KEYS, *MASK_KEYS}
    consumed -= {"weight", *WEIGHT_KEYS} if role != "assistant" and weight else set()
    more = {name: value for name, value in turn.items() if name not in consumed and value is not None}
    for name, value in more.items():
        check_encodable(f"{where}, field {name}", name, value)
    return Message(role, content, weight, more | ({"tool_calls": calls} if calls else {}))


def _rename_keys(turn: Fields) -> Fields:
    """The message with its keys for speaker and content renamed to `role` and `content`."""
    renamed = {
        next((name for name in names if name in turn), key): key
        for key, names in (("role", ROLE_KEYS), ("content", CONTENT_KEYS))
    }
    return {renamed.get(name, name): value for name, value in turn.items()}


def _is_speaker(role: Any) -> bool:
    return isinstance(role, str) and role.strip().lower() in {*ROLES, *ROLE_ALIASES, *TOOL_CALL_ROLES}


def _has_content(turn: Fields) -> bool:
    return "content" in turn or bool(turn.get("tool_calls") or turn.get("function_call"))


def _parse_role(where: str, turn: Fields) -> tuple[str, Fields]:
    """(role, message): the role under the name used here, and the message with its tool calls in `tool_calls`."""
    role = turn["role"].strip().lower() if isinstance(turn["role"], str) else turn["role"]
    if role in TOOL_CALL_ROLES:
        content = parse_json_field(where, turn["content"])
        calls = content if isinstance(content, list) else [content]
        role, turn = "assistant", {**turn, "content": None, "tool_calls": calls}
    elif turn.get("function_call") and not turn.get("tool_calls"):  # OpenAI's key before calls became a list
        turn = {**turn, "tool_calls": [turn["function_call"]]}
    # A role may be any JSON value, and a list cannot be looked up in a dict.
    role = ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise DataError(f"unknown role {turn['role']!r}", where=where, fix=f"one of: {', '.join(ROLES)}")
    return role, turn


def _parse_weight(where: str, turn: Fields) -> float:
    """The loss weight of a message, from `weight` and from the keys of other tools."""
    for name in AMBIGUOUS_KEYS:
        if turn.get(name) is not None:
            raise DataError(
                f"{name} is not supported",
                where=f"{where}, field {name}",
                fix='leave a whole turn out with "weight": 0, and remove this field',
            )
    weight = _parse_factor(where, "weight", turn.get("weight"))
    for name in WEIGHT_KEYS:
        weight *= _parse_factor(where, name, turn.get(name))
    for name in MASK_KEYS:
        weight *= turn.get(name) is None or not _parse_factor(where, name, turn[name])
    return weight


def _parse_factor(where: str, name: str, value: Any) -> float:
    """A number from 0 to MAX_WEIGHT, 1 if absent; other tools' keys may also be true or false."""
    may_be_flag = name != "weight"
    value = 1 if value is None else float(value) if isinstance(value, bool) and may_be_flag else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WEIGHT:
        fix = 'write "weight": a number from 0 (no loss) up; the default is 1'
        location = where if name == "weight" else f"{where}, field {name}"
        raise DataError(f"{name} {value!r}", where=location, fix=fix)
    return float(value)


def check_encodable(where: str, name: str, value: Any) -> None:
    """Raise a DataError if a value contains an unpaired surrogate anywhere, or is nested too deeply."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):
        raise DataError(f"{name} is nested too deeply", where=where, fix="write it with fewer levels") from None
    if not text.isascii() and SURROGATES.search(text):
        raise DataError(f"{name} contains half a character", where=where, fix="write it as Unicode")


def _parse_content(where: str, turn: Fields, role: str, *, has_calls: bool) -> str:
    """The text of a message; OpenAI also writes it as a list of parts, and null beside calls."""
    content = turn.get("content")
    if isinstance(content, list):
        parts = [_part_text(part) for part in content]
        if None in parts:
            raise DataError(
                "content that is not text",
                where=f"{where}, field content",
                fix="only parts of type text can be trained on",
            )
        content = "".join(part for part in parts if part is not None)
    if content is None and has_calls:
        content = ""
    # An empty system or user message is allowed; an empty answer has nothing to learn, unless it calls a tool.
    return require_string(where, {"content": content}, "content", empty=role != "assistant" or has_calls)


def _part_text(part: Any) -> str | None:
    """The text of a part of content; None for an image, or whatever else it is."""
    if isinstance(part, dict):
        text = next((part[name] for name in ("text", "value", "content") if part.get(name) is not None), None)
        part = text if part.get("type", "text") in ("text", "input_text", "output_text") else None
    return part if isinstance(part, str) else None


# Tools and template variables


def _parse_calls(where: str, calls: Any) -> list[Fields]:
    """Tool calls as templates expect them: `{type, function: {name, arguments}}`, the arguments an object."""
    if isinstance(calls, str) and calls.lstrip().startswith(("[", "{")):
        calls = parse_json_field(where, calls)
    calls = [calls] if isinstance(calls, dict) else calls
    if not calls:
        return []
    if not isinstance(calls, list):
        raise DataError(
            "tool_calls is not a list", where=where, fix='write [{"function": {"name": …, "arguments": …}}]'
        )
    parsed = [_parse_call(where, call) for call in calls]
    check_encodable(where, "tool_calls", parsed)
    return parsed


def _parse_call(where: str, call: Any) -> Fields:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            "a tool call without a name", where=where, fix='write {"function": {"name": …, "arguments": …}}'
        )
    key = next((name for name in ARGUMENT_KEYS if function.get(name) is not None), "arguments")
    arguments = function.get(key)
    if isinstance(arguments, str):  # OpenAI writes the arguments as JSON in a string
        arguments = parse_json_field(where, arguments) if arguments.strip() else None
    # Further keys stay where they stood: `id` beside the function, others inside it.
    outer = {name: value for name, value in call.items() if name not in ("function", "name", "arguments", key)}
    inner = {name: value for name, value in function.items() if name != key} if function is not call else {}
    parsed = {**inner, "name": function["name"], "arguments": {} if arguments is None else arguments}
    return {"type": "function", **outer, "function": parsed}


def parse_tools(where: str, fields: Fields) -> Tools:
    """Descriptions of functions, from a list or the JSON of one."""
    tools = fields.get("tools")
    tools = parse_json_field(f"{where}, field tools", tools) if isinstance(tools, str) and tools.strip() else tools
    tools = [tools] if isinstance(tools, dict) and tools else tools
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools is not a list of functions", where=f"{where}, field tools", fix='write [{"type": …}]')
    check_encodable(f"{where}, field tools", "tools", tools)
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def parse_variables(where: str, fields: Fields) -> Variables:
    """Further variables for the chat template, by name, from an object or the JSON of one."""
    values, where = fields.get(VARIABLES_FIELD), f"{where}, field {VARIABLES_FIELD}"
    values = parse_json_field(where, values) if isinstance(values, str) and values.strip() else values
    if not values:
        return {}
    if not isinstance(values, dict):
        raise DataError(f"{VARIABLES_FIELD} is not an object", where=where, fix='write {"enable_thinking": false}')
    invalid = next((name for name in values if not name.isidentifier()), None)
    if invalid is not None:
        what = f"{VARIABLES_FIELD} sets {invalid!r}, which cannot be the name of a variable"
        raise DataError(what, where=where, fix="rename it")
    reserved = next((name for name in values if name in RESERVED_VARIABLES), None)
    if reserved is not None:
        what = f"{VARIABLES_FIELD} sets {reserved!r}, which comes from other fields of the row"
        raise DataError(what, where=where, fix="remove it there; messages and tools are fields of the row")
    check_encodable(where, VARIABLES_FIELD, values)
    return {name: value for name, value in values.items() if value is not None}
