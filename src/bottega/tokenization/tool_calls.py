"""Calls of tools in what a model writes: how its chat template writes them, and how they are read.

Every family has a notation of its own; it is learnt from the template, by having it render a call that is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bottega.errors import DataError
from bottega.records import Chat
from bottega.records.messages import ARGUMENT_KEYS, parse_messages, parse_tools
from bottega.tokenization.chat_template import ChatTemplate, ChatTemplateError
from bottega.tokenization.detokenize import StopStrings

# The call that a template renders: words that no template has.
NAME, ARGUMENT, VALUE = "known_function", "known_argument", "known value"

EXAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "known description",
        "parameters": {"type": "object", "properties": {ARGUMENT: {"type": "string"}}, "required": [ARGUMENT]},
    },
}
EXAMPLE_CALL = {"id": "call00001", "type": "function", "function": {"name": NAME, "arguments": {ARGUMENT: VALUE}}}


@dataclass(frozen=True)
class ToolCall:
    """A call: the name of a function, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


def call_marker(template: ChatTemplate) -> str:
    """The text that begins a call in an answer; empty where the JSON of a call begins it.

    Raises a DataError if the template renders no tools, or calls that are not JSON.
    """
    where, question = "tools", {"role": "user", "content": "known question"}
    if "tools" not in template.names:
        what = "the chat template of this model has no place for tools"
        raise DataError(what, where=where, fix="describe them in the system message, or ask another model")
    tools = parse_tools(where, {"tools": [EXAMPLE_TOOL]})
    call = {"role": "assistant", "content": None, "tool_calls": [EXAMPLE_CALL]}
    try:
        asked = template.render(
            Chat(where, parse_messages(where, {"messages": [question]}), tools, {}), generation=True
        )
        called = template.render(Chat(where, parse_messages(where, {"messages": [question, call]}), tools, {}))
    except ChatTemplateError as error:
        raise DataError(
            f"the chat template refuses a call: {error.what}", where=where, fix="ask another model"
        ) from None
    answer = called[len(asked) :] if called.startswith(asked) else called[called.rindex("known question") + 14 :]
    for start, value in _json_values(answer):
        if any(one.name == NAME and VALUE in one.arguments for one in _calls_in(value)):
            return answer[:start].strip()
    what = "the chat template of this model writes calls in a notation of its own, which is not JSON"
    raise DataError(what, where=where, fix="ask another model")


class ToolCallReader:
    """Reads an answer piece by piece: what is said is passed on, calls are kept.

    marker  what begins a call
    names   names of the tools; JSON that calls anything else is text
    """

    def __init__(self, marker: str, names: frozenset[str]) -> None:
        self.names = names
        self._said = StopStrings([marker])
        self._kept = ""
        self._whole = ""
        self._is_json: bool | None = None

    def push(self, text: str) -> str:
        """Add text and return what is said."""
        self._whole += text
        # A call may begin without the marker, which some tokenizers leave out as a special token.
        if self._is_json is None:
            if not self._whole.strip():
                return ""
            self._is_json, text = self._whole.lstrip().startswith(("{", "[")), self._whole
        return "" if self._is_json else self._said.push(text)

    def end(self) -> tuple[str, list[ToolCall]]:
        """(what is said and was held back, the calls), when no more text comes."""
        calls = [call for _, value in _json_values(self._whole) for call in _calls_in(value) if call.name in self.names]
        if not calls:
            return (self._rest() if self._is_json is False else self._whole), []
        return ("" if self._is_json else self._said.end()), calls

    def _rest(self) -> str:
        """All that was not passed on."""
        if not self._said.met:
            return self._said.end()
        marker = max(self._said.stops, key=len)
        return self._whole[self._whole.index(marker) :]


def _json_values(text: str) -> Iterator[tuple[int, Any]]:
    """(where it starts, the value) of every JSON object or list in a text, outermost ones only."""
    decoder, place = json.JSONDecoder(), 0
    while starts := [found for found in (text.find("{", place), text.find("[", place)) if found >= 0]:
        start = min(starts)
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
        else:
            yield start, value


def _calls_in(value: Any) -> list[ToolCall]:
    """The calls in a JSON value: one, or a list of them."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        call = item.get("function", item) if isinstance(item, dict) else {}
        key = next((key for key in ARGUMENT_KEYS if isinstance(call, dict) and key in call), None)
        if key is not None and isinstance(call.get("name"), str):
            arguments = call[key]
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            found.append(ToolCall(call["name"], text))
    return found
