"""Prompts for a model that was not tuned: with examples of what is wanted, or with passages to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bottega.records import Message, Prompt
from bottega.tokenization.codec import Codec
from bottega.tokenization.unicode_words import to_nfc

# Stands between the examples of a plain-text prompt, and ends a generated answer to one.
SEPARATOR = "\n\n"

# Longer prompts are slow and hardly better; a model with fewer positions gets fewer.
MAX_PROMPT_TOKENS = 2048

PASSAGES_PER_QUESTION = 3

# What makes the start of a text another label than its letters say: 10 or 1.5 for 1, C++ for C.
LABEL_CONTINUES = re.compile(r"\d(?:\d|[.,]\d)|\w[+#]")

# Puts items before a prompt. The list begins with the most similar, which comes last, right before the prompt:
# models attend most to what is near.
PromptBuilder = Callable[[Prompt, Sequence[Any]], Prompt]


@dataclass(frozen=True)
class Shot:
    """An example for a few-shot prompt."""

    prompt: Prompt
    answer: str


def query_text(prompt: Prompt) -> str:
    """The text of a prompt to search similar ones by: of a conversation its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def with_shots(prompt: Prompt, shots: Sequence[Shot]) -> Prompt:
    """The prompt after examples: as text, or as turns of a conversation after its own system message."""
    reversed_shots = shots[::-1]
    if isinstance(prompt, str):
        return "".join(f"{query_text(shot.prompt)}{shot.answer}{SEPARATOR}" for shot in reversed_shots) + prompt
    system = tuple(message for message in prompt[:-1] if message.role == "system")
    turns = tuple(message for shot in reversed_shots for message in _turns(shot))
    return (*system, *turns, *prompt[len(system) :])


def _turns(shot: Shot) -> tuple[Message, ...]:
    messages = (Message("user", shot.prompt),) if isinstance(shot.prompt, str) else shot.prompt
    return (*(message for message in messages if message.role != "system"), Message("assistant", shot.answer))


def with_passages(prompt: Prompt, passages: Sequence[str]) -> Prompt:
    """The prompt after passages that may hold the answer; in a conversation they begin the last message."""
    text = SEPARATOR.join(passages[::-1])
    if not text:
        return prompt
    if isinstance(prompt, str):
        return f"{text}{SEPARATOR}{prompt}"
    return (*prompt[:-1], replace(prompt[-1], content=f"{text}{SEPARATOR}{prompt[-1].content}"))


def fit_prompt(codec: Codec, prompt: Prompt, build: PromptBuilder, items: Sequence[Any], room: int) -> Prompt:
    """The prompt after as many of the items as fit within `room` tokens."""
    for count in range(len(items), 0, -1):
        longer = build(prompt, items[:count])
        if len(codec.encode_prompt(longer)) <= room:
            return longer
    return prompt


def leading_label(text: str, labels: Sequence[str]) -> int:
    """The index of the longest label that a text begins with, in any case; −1 where it begins with none."""
    text, names = _normalize(text), [_normalize(label) for label in labels]
    matches = [
        index
        for index, name in enumerate(names)
        if text.startswith(name) and not LABEL_CONTINUES.match(text, len(name) - 1)
    ]
    return max(matches, key=lambda index: len(names[index]), default=-1)


def _normalize(text: str) -> str:
    return to_nfc(text).strip().lower()
