"""How a model that was not tuned is asked well: with examples of what is wanted, or with passages to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bottega.records import Message, Prompt
from bottega.tokenization.codec import Codec
from bottega.tokenization.unicode_words import composed

SEPARATOR = "\n\n"
"""Between examples of plain text."""

MAX_PROMPT_TOKENS = 2048
"""Most tokens of a prompt with what is shown before it; fewer where the model has fewer positions."""

PASSAGES_PER_QUESTION = 3
"""Passages that are looked up for a question."""


@dataclass(frozen=True)
class Shot:
    """A question and its answer."""

    prompt: Prompt
    answer: str


LABEL_CONTINUES = re.compile(r"\d(?:\d|[.,]\d)|\w[+#]")
"""What makes another label of one: 10 or 1.5 of 1, C++ of C."""

PromptBuilder = Callable[[Prompt, Sequence[Any]], Prompt]
"""A prompt after things that help, the likest of which come first in the list and right before it in the prompt."""


def query_text(prompt: Prompt) -> str:
    """What a prompt asks, as words to look for others by: of a conversation its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def with_shots(prompt: Prompt, shots: Sequence[Shot]) -> Prompt:
    """A prompt after examples, the likest of them, which come first in `shots`, right before it."""
    turned = shots[::-1]
    if isinstance(prompt, str):
        return "".join(f"{query_text(shot.prompt)}{shot.answer}{SEPARATOR}" for shot in turned) + prompt
    head = tuple(message for message in prompt[:-1] if message.role == "system")
    turns = tuple(message for shot in turned for message in _turns(shot))
    return (*head, *turns, *prompt[len(head) :])


def _turns(shot: Shot) -> tuple[Message, ...]:
    asked = (Message("user", shot.prompt),) if isinstance(shot.prompt, str) else shot.prompt
    return (*(message for message in asked if message.role != "system"), Message("assistant", shot.answer))


def with_passages(prompt: Prompt, passages: Sequence[str]) -> Prompt:
    """A prompt after passages that may hold the answer."""
    read = SEPARATOR.join(passages[::-1])
    if not read:
        return prompt
    if isinstance(prompt, str):
        return f"{read}{SEPARATOR}{prompt}"
    return (*prompt[:-1], replace(prompt[-1], content=f"{read}{SEPARATOR}{prompt[-1].content}"))


def fit_prompt(codec: Codec, prompt: Prompt, put: PromptBuilder, things: Sequence[Any], room: int) -> Prompt:
    """The prompt after as many of the things as leave it within `room` tokens."""
    for count in range(len(things), 0, -1):
        longer = put(prompt, things[:count])
        if len(codec.encode_prompt(longer)) <= room:
            return longer
    return prompt


def leading_label(text: str, labels: Sequence[str]) -> int:
    """The number of the longest label that a text begins with; −1 where it begins with none."""
    text, names = _normalize(text), [_normalize(label) for label in labels]
    places = [
        place
        for place, name in enumerate(names)
        if text.startswith(name) and not LABEL_CONTINUES.match(text, len(name) - 1)
    ]
    return max(places, key=lambda place: len(names[place]), default=-1)


def _normalize(text: str) -> str:
    return composed(text).strip().lower()
