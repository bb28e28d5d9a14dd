"""A prompt that is too long gives way before the answer to it does.

A text loses its beginning: what is asked stands at its end. Of a conversation go first what stands behind the last
answer that is learned, and then the oldest questions with their answers, while what a system says stays. If the last
question is too long by itself, the longest of what is no answer loses its middle: what is to be done with a document
stands before it or behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, takewhile
from typing import Any

from bottega.records import Message
from bottega.tokenization.chat_spans import answers_with_loss

SYSTEM_ROLES = ("system", "developer")

TEMPLATE_TOKENS = 16
"""Tokens that a template may put around a message; too many only make a prompt be looked at once more."""

TokenOffsets = Callable[[str], list[tuple[int, int]]]
"""text → where each of its tokens starts and ends."""


def shorten_prompt(prompt: Any, over: int, least: int, tokens: TokenOffsets) -> Any:
    """The prompt, a text or messages, shorter by some `over` tokens; None where nothing more can go.

    least  tokens that stay of a text that is cut
    """
    return (
        _cut_beginning(prompt, over, least, tokens)
        if isinstance(prompt, str)
        else _drop_messages(prompt, over, least, tokens)
    )


def _cut_beginning(text: str, over: int, least: int, tokens: TokenOffsets) -> str | None:
    found = tokens(text)
    starts = [start for start, _ in found[max(0, min(over, len(found) - least)) :] if start > 0]
    return text[starts[0] :] if starts and len(found) > least else None


def _drop_messages(
    messages: tuple[Message, ...], over: int, least: int, tokens: TokenOffsets
) -> tuple[Message, ...] | None:
    answers = answers_with_loss(messages)
    if answers and answers[-1] + 1 < len(messages):
        return messages[: answers[-1] + 1]
    system = len(list(takewhile(lambda message: message.role in SYSTEM_ROLES, messages)))
    asked = [place for place in range(system, len(messages)) if _starts_user_turn(messages, place)]
    room = 0
    for place, later in pairwise(asked):
        room += sum(TEMPLATE_TOKENS + len(tokens(_message_text(message))) for message in messages[place:later])
        if room >= over or later == asked[-1]:
            return (*messages[:system], *messages[later:])
    return _cut_longest(messages, over, least, tokens)


def _message_text(message: Message) -> str:
    """All that a message says, its calls and reasoning too."""
    return message.content + (json.dumps(dict(message.more), ensure_ascii=False, default=str) if message.more else "")


def _starts_user_turn(messages: Sequence[Message], place: int) -> bool:
    """Whether a turn of the user begins here."""
    return messages[place].role == "user" and (place == 0 or messages[place - 1].role != "user")


def _cut_longest(
    messages: tuple[Message, ...], over: int, least: int, tokens: TokenOffsets
) -> tuple[Message, ...] | None:
    """The messages, the longest that is no answer without its middle; a system's only where no other is left."""
    sizes = {place: len(tokens(one.content)) for place, one in enumerate(messages) if one.role != "assistant"}
    given = {place: size for place, size in sizes.items() if size > least}
    said = {place: size for place, size in given.items() if messages[place].role not in SYSTEM_ROLES} or given
    if not said:
        return None
    longest = max(said, key=lambda place: said[place])
    content = messages[longest].content
    kept, found = max(least, said[longest] - over), tokens(content)
    first, last = found[: kept // 2], found[len(found) - (kept - kept // 2) :]
    shorter = content[: first[-1][1] if first else 0] + content[last[0][0] :]
    if len(shorter) >= len(content):
        return None
    return (*messages[:longest], replace(messages[longest], content=shorter), *messages[longest + 1 :])
