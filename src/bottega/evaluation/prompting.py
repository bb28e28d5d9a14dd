"""How a model that was not tuned is asked well: with examples of what is wanted, or with passages to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bottega.records import Message, Prompt
from bottega.tokenization.codec import Codec
from bottega.tokenization.unicode_words import composed

BETWEEN = "\n\n"
"""Between examples of plain text."""

ROOM = 2048
"""Most tokens of a prompt with what is shown before it; fewer where the model has fewer positions."""

PASSAGES = 3
"""Passages that are looked up for a question."""


@dataclass(frozen=True)
class Shot:
    """A question and its answer."""

    prompt: Prompt
    answer: str


MORE = re.compile(r"\d(?:\d|[.,]\d)|\w[+#]")
"""What makes another label of one: 10 or 1.5 of 1, C++ of C."""

Put = Callable[[Prompt, Sequence[Any]], Prompt]
"""A prompt after things that help, the likest of which come first in the list and right before it in the prompt."""


def said(prompt: Prompt) -> str:
    """What a prompt asks, as words to look for others by: of a conversation its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def shown(prompt: Prompt, shots: Sequence[Shot]) -> Prompt:
    """A prompt after examples, the likest of them, which come first in `shots`, right before it."""
    turned = shots[::-1]
    if isinstance(prompt, str):
        return "".join(f"{said(shot.prompt)}{shot.answer}{BETWEEN}" for shot in turned) + prompt
    head = tuple(message for message in prompt[:-1] if message.role == "system")
    turns = tuple(message for shot in turned for message in _turns(shot))
    return (*head, *turns, *prompt[len(head) :])


def _turns(shot: Shot) -> tuple[Message, ...]:
    asked = (Message("user", shot.prompt),) if isinstance(shot.prompt, str) else shot.prompt
    return (*(message for message in asked if message.role != "system"), Message("assistant", shot.answer))


def informed(prompt: Prompt, passages: Sequence[str]) -> Prompt:
    """A prompt after passages that may hold the answer."""
    read = BETWEEN.join(passages[::-1])
    if not read:
        return prompt
    if isinstance(prompt, str):
        return f"{read}{BETWEEN}{prompt}"
    return (*prompt[:-1], replace(prompt[-1], content=f"{read}{BETWEEN}{prompt[-1].content}"))


def fitted(codec: Codec, prompt: Prompt, put: Put, things: Sequence[Any], room: int) -> Prompt:
    """The prompt after as many of the things as leave it within `room` tokens."""
    for count in range(len(things), 0, -1):
        longer = put(prompt, things[:count])
        if len(codec.prefix(longer)) <= room:
            return longer
    return prompt


def begun(text: str, labels: Sequence[str]) -> int:
    """The number of the longest label that a text begins with; −1 where it begins with none."""
    text, names = _plain(text), [_plain(label) for label in labels]
    places = [
        place for place, name in enumerate(names) if text.startswith(name) and not MORE.match(text, len(name) - 1)
    ]
    return max(places, key=lambda place: len(names[place]), default=-1)


def _plain(text: str) -> str:
    return composed(text).strip().lower()
