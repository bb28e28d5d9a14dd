"""What a line of data holds, once its file format is forgotten.

A record knows where it came from, so that every later complaint can name file and line, and its `prompt_key`: two
records with the same key must never stand on both sides of a validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    weight: float = 1.0
    """Share of an assistant message in the loss; 0 trains on the others only."""


Prompt: TypeAlias = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text to model; `answer` is where the part that carries the loss starts (a `text_template`)."""

    where: str
    text: str
    answer: int = 0

    @property
    def prompt_key(self) -> str:
        return self.text[: self.answer] or self.text


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt and its completion, both taken as they are: no chat template."""

    where: str
    prompt: str
    completion: str

    @property
    def prompt_key(self) -> str:
        return self.prompt or self.completion


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; the assistant's messages are the answers."""

    where: str
    messages: tuple[Message, ...]

    @property
    def prompt_key(self) -> str:
        return _before_answer(self.messages)


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt, a better and a worse answer."""

    where: str
    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def prompt_key(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else _before_answer(self.prompt)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and the name of its class."""

    where: str
    text: str
    label: str

    @property
    def prompt_key(self) -> str:
        return self.text


Record: TypeAlias = Text | Prompted | Chat | Preference | Labelled


def _before_answer(messages: tuple[Message, ...]) -> str:
    """The messages up to the first answer to a user; a greeting before that says little of the prompt."""
    roles = [message.role for message in messages]
    first = roles.index("user") if "user" in roles else 0
    end = roles.index("assistant", first) if "assistant" in roles[first:] else len(roles)
    return "\n".join(f"{message.role}: {message.content}" for message in messages[:end])
