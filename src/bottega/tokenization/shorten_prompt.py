"""Shorten a prompt that is too long, so that its answer need not be cut.

A text loses its beginning: the question stands at its end. A conversation first loses what follows the last answer with
loss, then its oldest user turns with their answers, while system messages stay. If the last user turn is too long by
itself, the longest message that is not an answer loses its middle: instructions about a document stand before or after
it.
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

# An estimate of the tokens a template puts around a message. If it is too high, fewer messages are dropped at first,
# and the prompt is encoded once more.
TEMPLATE_TOKENS = 16

# text → start and end character of each of its tokens.
TokenOffsets = Callable[[str], list[tuple[int, int]]]


def shorten_prompt(prompt: Any, excess: int, least: int, offsets: TokenOffsets) -> Any:
    """A prompt, a text or messages, shorter by about `excess` tokens; None where it cannot be shortened.

    least  tokens that a cut text keeps
    """
    if isinstance(prompt, str):
        return _cut_beginning(prompt, excess, least, offsets)
    return _drop_messages(prompt, excess, least, offsets)


def _cut_beginning(text: str, excess: int, least: int, offsets: TokenOffsets) -> str | None:
    tokens = offsets(text)
    # A token that starts at 0 is not the text's: cutting there would shorten nothing, and loop.
    starts = [start for start, _ in tokens[max(0, min(excess, len(tokens) - least)) :] if start > 0]
    return text[starts[0] :] if starts and len(tokens) > least else None


def _drop_messages(
    messages: tuple[Message, ...], excess: int, least: int, offsets: TokenOffsets
) -> tuple[Message, ...] | None:
    answers = answers_with_loss(messages)
    if answers and answers[-1] + 1 < len(messages):
        return messages[: answers[-1] + 1]
    system = len(list(takewhile(lambda message: message.role in SYSTEM_ROLES, messages)))
    turns = [index for index in range(system, len(messages)) if _starts_user_turn(messages, index)]
    freed = 0
    # Whole turns only: an answer without its question would be learned as the answer to another.
    for turn, following in pairwise(turns):
        freed += sum(TEMPLATE_TOKENS + len(offsets(_message_text(message))) for message in messages[turn:following])
        if freed >= excess or following == turns[-1]:
            return (*messages[:system], *messages[following:])
    return _cut_longest(messages, excess, least, offsets)


def _message_text(message: Message) -> str:
    """All texts of a message, those of its tool calls and reasoning included."""
    return message.content + (json.dumps(dict(message.more), ensure_ascii=False, default=str) if message.more else "")


def _starts_user_turn(messages: Sequence[Message], index: int) -> bool:
    return messages[index].role == "user" and (index == 0 or messages[index - 1].role != "user")


def _cut_longest(
    messages: tuple[Message, ...], excess: int, least: int, offsets: TokenOffsets
) -> tuple[Message, ...] | None:
    """The messages, the longest without its middle; never an answer, and a system message only if there is no other."""
    sizes = {
        index: len(offsets(message.content)) for index, message in enumerate(messages) if message.role != "assistant"
    }
    long = {index: size for index, size in sizes.items() if size > least}
    candidates = {index: size for index, size in long.items() if messages[index].role not in SYSTEM_ROLES} or long
    if not candidates:
        return None
    longest = max(candidates, key=lambda index: candidates[index])
    content = messages[longest].content
    kept, tokens = max(least, candidates[longest] - excess), offsets(content)
    first, last = tokens[: kept // 2], tokens[len(tokens) - (kept - kept // 2) :]
    shorter = content[: first[-1][1] if first else 0] + content[last[0][0] :]
    # Tokens of one character's bytes have the same offsets: cutting between them removes nothing.
    if len(shorter) >= len(content):
        return None
    return (*messages[:longest], replace(messages[longest], content=shorter), *messages[longest + 1 :])
