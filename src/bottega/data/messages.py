"""Parsing messages and tools: OpenAI's and ShareGPT's notation, and one question with its answer."""

from __future__ import annotations

import json
from typing import Any

from bottega.data.fields import SURROGATES, Fields, parse_json_field, require_string
from bottega.errors import DataError
from bottega.records import Chat, Message, Tools, Variables

ROLE = ("role", "from", "author", "speaker", "sender")
# Keys for the speaker and for the content of a message: OpenAI's, ShareGPT's, and others'.
SAID = ("content", "value", "text")

ROLES = ("system", "developer", "user", "assistant", "tool")
# Role names of ShareGPT and other formats → ours.
OTHER_ROLES = {
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
CALLING = ("function_call", "tool_call", "tool_calls")

# Keys for the arguments of a tool call.
ARGUMENTS = ("arguments", "parameters", "input", "args")

# Keys of a message that are interpreted here; all others are passed on to the chat template.
OURS = ("role", "content", "weight", "tool_calls", "function_call")

LEARNED = ("loss_weight", "loss_mask", "loss_scale", "loss", "train", "training", "trainable", "is_trainable", "learn")
# Other tools' keys for the loss weight of a message: true or a number includes it (first), true excludes it (second).
LEFT_OUT = ("masked", "is_masked", "ignore", "ignore_loss", "no_loss", "skip_loss")

# Keys that are refused: they say more than one weight can, or mean opposite things in different tools.
UNCLEAR = ("train_detail", "training_detail", "loss_detail", "mask", "label_mask", "labels_mask")

# The field of a row with further variables of the chat template; TRL's name for it.
VARIABLES = "chat_template_kwargs"

# Template variables that come from other fields of the row, and so cannot be set.
OWN = ("messages", "tools", "documents", "add_generation_prompt")

# A larger weight is a typing error, and would overflow in the loss.
MOST_WEIGHT = 1e6


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
    """One message, with OpenAI's keys (role, content, tool_calls …), ShareGPT's (from, value) or others'."""
    turn = _with_our_keys(turn) if isinstance(turn, dict) else turn
    if not isinstance(turn, dict) or "role" not in turn or not _says(turn):
        raise DataError("a message without role or content", where=where, fix='write {"role": …, "content": …}')
    role = turn["role"].strip().lower() if isinstance(turn["role"], str) else turn["role"]
    if role in CALLING:
        found = parse_json_field(where, turn["content"])
        called = found if isinstance(found, list) else [found]
        role, turn = "assistant", {**turn, "content": None, "tool_calls": called}
    elif turn.get("function_call") and not turn.get("tool_calls"):  # as OpenAI wrote one call before there were lists
        turn = {**turn, "tool_calls": [turn["function_call"]]}
    role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise DataError(f"unknown role {turn['role']!r}", where=where, fix=f"one of: {', '.join(ROLES)}")
    calls = _calls(f"{where}, field tool_calls", turn.get("tool_calls"))
    content = _content(where, turn, role, bool(calls))
    weight = _weight(where, turn)
    # Only assistant messages are learned. A flag that asks to learn another message stays, and is reported as not read.
    taken = {*OURS, *LEARNED, *LEFT_OUT} - ({"weight", *LEARNED} if role != "assistant" and weight else set())
    more = {name: value for name, value in turn.items() if name not in taken and value is not None}
    for name, value in more.items():
        sound(f"{where}, field {name}", name, value)
    return Message(role, content, weight, more | ({"tool_calls": calls} if calls else {}))


def _with_our_keys(turn: Fields) -> Fields:
    """The message with its keys for speaker and content renamed to `role` and `content`."""
    theirs = {
        next((name for name in names if name in turn), ours): ours
        for ours, names in (("role", ROLE), ("content", SAID))
    }
    return {theirs.get(name, name): value for name, value in turn.items()}


def is_talk(value: Any) -> bool:
    """Whether a value is messages whose speakers are known, rather than any other list."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and _is_speaker(_with_our_keys(one).get("role")) for one in value)


def _is_speaker(role: Any) -> bool:
    return isinstance(role, str) and role.strip().lower() in {*ROLES, *OTHER_ROLES, *CALLING}


def _says(turn: Fields) -> bool:
    return "content" in turn or bool(turn.get("tool_calls") or turn.get("function_call"))


def _weight(where: str, turn: Fields) -> float:
    """The loss weight of a message, from `weight` and from the keys of other tools."""
    for name in UNCLEAR:
        if turn.get(name) is not None:
            raise DataError(
                f"{name}, which is not read here",
                where=f"{where}, field {name}",
                fix='leave a whole turn out with "weight": 0, and remove this field',
            )
    weight = _share(where, "weight", turn.get("weight"))
    for name in LEARNED:
        weight *= _share(where, name, turn.get(name))
    for name in LEFT_OUT:
        weight *= turn.get(name) is None or not _share(where, name, turn[name])
    return weight


def _share(where: str, name: str, value: Any) -> float:
    flags = name != "weight"
    value = 1 if value is None else float(value) if isinstance(value, bool) and flags else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_WEIGHT:
        fix = 'write "weight": a number from 0 (no loss) up; 1 is the usual'
        place = where if name == "weight" else f"{where}, field {name}"
        raise DataError(f"{name} {value!r}", where=place, fix=fix)
    return float(value)


def sound(where: str, name: str, value: Any) -> None:
    """Raise a DataError if a value contains an unpaired surrogate anywhere, or is nested too deeply."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):
        raise DataError(f"{name} is nested too deeply", where=where, fix="write it flatter") from None
    if not text.isascii() and SURROGATES.search(text):
        raise DataError(f"{name} holds half a character", where=where, fix="write it as Unicode")


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
    return require_string(where, {"content": content}, "content", empty=role != "assistant" or calling)


def _part(part: Any) -> str | None:
    """The text of a part of content; None for an image, or whatever else it is."""
    if isinstance(part, dict):
        found = next((part[name] for name in ("text", "value", "content") if part.get(name) is not None), None)
        part = found if part.get("type", "text") in ("text", "input_text", "output_text") else None
    return part if isinstance(part, str) else None


def _calls(where: str, calls: Any) -> list[Fields]:
    """Tool calls as templates take them: `{type, function: {name, arguments}}`, the arguments an object."""
    calls = (
        parse_json_field(where, calls) if isinstance(calls, str) and calls.lstrip().startswith(("[", "{")) else calls
    )
    calls = [calls] if isinstance(calls, dict) else calls
    if not calls:
        return []
    if not isinstance(calls, list):
        raise DataError(
            "tool_calls is not a list", where=where, fix='write [{"function": {"name": …, "arguments": …}}]'
        )
    found = [_call(where, call) for call in calls]
    sound(where, "tool_calls", found)
    return found


def _call(where: str, call: Any) -> Fields:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            "a tool call without a name", where=where, fix='write {"function": {"name": …, "arguments": …}}'
        )
    given = next((name for name in ARGUMENTS if function.get(name) is not None), "arguments")
    arguments = function.get(given)
    if isinstance(arguments, str):
        arguments = parse_json_field(where, arguments) if arguments.strip() else None
    kept = {name: value for name, value in call.items() if name not in ("function", "name", "arguments", given)}
    own = {name: value for name, value in function.items() if name != given} if function is not call else {}
    called = {**own, "name": function["name"], "arguments": {} if arguments is None else arguments}
    return {"type": "function", **kept, "function": called}


def tools(where: str, fields: Fields) -> Tools:
    """Descriptions of functions, as a list or as the JSON of one."""
    tools = fields.get("tools")
    tools = parse_json_field(f"{where}, field tools", tools) if isinstance(tools, str) and tools.strip() else tools
    tools = [tools] if isinstance(tools, dict) and tools else tools
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools is not a list of functions", where=f"{where}, field tools", fix='write [{"type": …}]')
    sound(f"{where}, field tools", "tools", tools)
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def variables(where: str, fields: Fields) -> Variables:
    """Further values for the chat template, by their names: an object, or the JSON of one."""
    given, where = fields.get(VARIABLES), f"{where}, field {VARIABLES}"
    given = parse_json_field(where, given) if isinstance(given, str) and given.strip() else given
    if not given:
        return {}
    if not isinstance(given, dict):
        raise DataError(f"{VARIABLES} is not an object", where=where, fix='write {"enable_thinking": false}')
    unnamed = next((name for name in given if not name.isidentifier()), None)
    if unnamed is not None:
        raise DataError(f"{VARIABLES} gives {unnamed!r}, which no template can name", where=where, fix="rename it")
    taken = next((name for name in given if name in OWN), None)
    if taken is not None:
        what = f"{VARIABLES} gives {taken!r}, which the row's other fields decide"
        raise DataError(what, where=where, fix="leave it out there; messages and tools are fields of the row")
    sound(where, VARIABLES, given)
    return {name: value for name, value in given.items() if value is not None}
