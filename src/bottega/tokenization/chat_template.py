"""A tokenizer's chat template: conversations → text, the same on every day of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from typing import Any

from bottega.errors import DataError
from bottega.records import Chat, Message
from bottega.tokenization import builtin_templates
from bottega.tokenization.template_sandbox import REASONING_KEYS, render, template_names

MessageDict = dict[str, Any]
"""A message as templates take it."""


class ChatTemplateError(DataError):
    """A conversation the tokenizer's chat template does not render."""


class ChatTemplate:
    """The chat template of a tokenizer.

    day     what the template is told when it asks for today's date
    unread  what conversations hold and the template never asks for: how many have it
    used    whether conversations were rendered with it
    """

    def __init__(self, tokenizer: Any, day: date | None = None) -> None:
        self.tokenizer = tokenizer
        self.day = day or date.today()
        self.unread: Counter[str] = Counter()
        self.used = False

    def render(self, chat: Chat, *, generation: bool = False) -> str:
        """The conversation as text; `generation` adds what an answer begins after."""
        return self.rendered(message_dicts(chat.messages), chat, generation=generation)

    def rendered(self, turns: Sequence[MessageDict], chat: Chat, *, generation: bool = False) -> str:
        """The same of other messages, as templates take them; a TemplateRefused with what the template objects to."""
        try:
            try:
                return self._text(turns, chat, generation)
            except TypeError:  # some templates take the arguments of a call as text
                return self._text(_with_json_arguments(turns), chat, generation)
        except Exception as error:  # a template is a program, and raises what it likes
            raise ChatTemplateError(
                f"the chat template refuses this conversation: {error}",
                where=chat.where,
                fix="mend the row, leave such rows out with data.bad_rows=drop, or set another model.tokenizer",
            ) from None

    def _text(self, turns: Sequence[MessageDict], chat: Chat, generation: bool) -> str:
        now, tools = datetime(self.day.year, self.day.month, self.day.day), list(chat.tools) or None
        return render(self.tokenizer, turns, tools=tools, generation=generation, now=now, variables=chat.variables)

    @cached_property
    def named(self) -> frozenset[str]:
        """Every name and text by which the template may ask for something."""
        return template_names(self.tokenizer, tools=True) | template_names(self.tokenizer, tools=False)

    @property
    def name(self) -> str:
        """What to call it: one of those built in, or the tokenizer's own."""
        return builtin_templates.builtin_name(self.tokenizer) or "the tokenizer's own"

    def look(self, chat: Chat) -> None:
        """Count what this conversation holds for nothing."""
        self.used = True
        names = {name for message in chat.messages for name in message.more}
        self.unread.update(name for name in names if not self.reads(name, chat))
        self.unread.update(name for name in chat.variables if name not in self.named)
        if chat.tools and "tools" not in self.named:
            self.unread["tools"] += 1

    def reads(self, name: str, chat: Chat) -> bool:
        """Whether the template asks a message for `name`, or shows whole messages; reasoning goes by any name."""
        if self.named & set(REASONING_KEYS if name in REASONING_KEYS else (name,)):
            return True
        if name not in self._whole:
            other = [replace(message, more={**message.more, name: "?"}) for message in chat.messages]
            self._whole[name] = self.render(replace(chat, messages=tuple(other))) != self.render(chat)
        return self._whole[name]

    @cached_property
    def _whole(self) -> dict[str, bool]:
        """Whether a name that the template does not know is shown all the same."""
        return {}


def message_dicts(messages: Sequence[Message]) -> list[MessageDict]:
    return [message.turn() for message in messages]


def _with_json_arguments(turns: Sequence[MessageDict]) -> list[MessageDict]:
    """The messages with the arguments of their calls as JSON."""

    def called(call: Mapping[str, Any]) -> dict[str, Any]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False, default=str)
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return [turn | {"tool_calls": [called(call) for call in turn.get("tool_calls", [])]} for turn in turns]
