"""A tokenizer's chat template: renders conversations as text, the same on every day of a run.

The limits a template runs under are those of `template_sandbox`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from typing import Any

from bottega.errors import DataError
from bottega.records import Chat, Message
from bottega.tokenization import builtin_templates
from bottega.tokenization.tally import Tally
from bottega.tokenization.template_analysis import only_prints_contents
from bottega.tokenization.template_sandbox import REASONING_KEYS, render, template_names

# A message as templates take it.
MessageDict = dict[str, Any]


class ChatTemplateError(DataError):
    """A conversation that the tokenizer's chat template does not render."""


class ChatTemplate:
    """The chat template of a tokenizer.

    day    the date the template is given as today's; fixed for a run, so that a resumed one renders the same
    tally  counts the conversations encoded with it, and their fields that it ignores
    """

    def __init__(self, tokenizer: Any, day: date | None = None, tally: Tally | None = None) -> None:
        self.tokenizer = tokenizer
        self.day = day or date.today()
        self.tally = tally or Tally()

    def render(self, chat: Chat, *, generation: bool = False) -> str:
        """The conversation as text; `generation` adds the generation prompt."""
        return self.render_messages(message_dicts(chat.messages), chat, generation=generation)

    def render_messages(self, messages: Sequence[MessageDict], chat: Chat, *, generation: bool = False) -> str:
        """The text of other messages, with the tools and variables of a chat; a ChatTemplateError if refused."""
        try:
            try:
                return self._render(messages, chat, generation)
            except TypeError:  # some templates concatenate the arguments of a call, and need them as a string
                return self._render(_with_json_arguments(messages), chat, generation)
        except Exception as error:  # a template is a program, and may raise anything
            raise ChatTemplateError(
                f"the chat template refuses this conversation: {error}",
                where=chat.where,
                fix="correct the row, leave such rows out with data.bad_rows=drop, or set another model.tokenizer",
            ) from None

    def _render(self, messages: Sequence[MessageDict], chat: Chat, generation: bool) -> str:
        now, tools = datetime(self.day.year, self.day.month, self.day.day), list(chat.tools) or None
        return render(self.tokenizer, messages, tools=tools, generation=generation, now=now, variables=chat.variables)

    @cached_property
    def only_prints_contents(self) -> bool:
        """Whether the text of a conversation without tools depends on its contents only in that they stand in it."""
        try:
            return only_prints_contents(self.tokenizer.get_chat_template(None, None))
        except Exception:  # there is none, or it is broken in any way: rendering a conversation says how
            return False

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name and string constant by which the template may read a field."""
        # A tokenizer may have a template of its own for conversations with tools.
        return template_names(self.tokenizer, tools=True) | template_names(self.tokenizer, tools=False)

    @property
    def name(self) -> str:
        """The name of a built-in template, or "the tokenizer's own"."""
        return builtin_templates.builtin_name(self.tokenizer) or "the tokenizer's own"

    def count_unused_fields(self, chat: Chat) -> None:
        """Count the fields of a conversation that the template ignores."""
        self.tally.templated += 1
        unused = self.tally.unused_fields
        fields = {name for message in chat.messages for name in message.more}
        unused.update(name for name in fields if not self._uses(name, chat))
        unused.update(name for name in chat.variables if name not in self.names)
        if chat.tools and "tools" not in self.names:
            unused["tools"] += 1

    def _uses(self, name: str, chat: Chat) -> bool:
        """Whether the template reads the field `name` of a message, or renders whole messages."""
        # Reasoning is given to a template under all of its usual names.
        if self.names & set(REASONING_KEYS if name in REASONING_KEYS else (name,)):
            return True
        if name not in self._rendered_unnamed:
            # `{{ message | tojson }}` shows a field without naming it: does the text change with its value?
            changed = [replace(message, more={**message.more, name: "?"}) for message in chat.messages]
            self._rendered_unnamed[name] = self.render(replace(chat, messages=tuple(changed))) != self.render(chat)
        return self._rendered_unnamed[name]

    @cached_property
    def _rendered_unnamed(self) -> dict[str, bool]:
        return {}


def message_dicts(messages: Sequence[Message]) -> list[MessageDict]:
    return [message.turn() for message in messages]


def _with_json_arguments(messages: Sequence[MessageDict]) -> list[MessageDict]:
    """The messages with the arguments of their tool calls as JSON strings."""

    def encode(call: Mapping[str, Any]) -> dict[str, Any]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False, default=str)
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return [message | {"tool_calls": [encode(call) for call in message.get("tool_calls", [])]} for message in messages]
