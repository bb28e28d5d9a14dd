"""What a line of data holds, once its file format is forgotten.

A record knows where it came from, so that every later complaint can name file and line, and its `prompt_key`: two
records with the same key must never stand on both sides of a validation split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeAlias

# What becomes of a record that makes more tokens than a row may have.
TooLong = Literal["shorten", "drop", "truncate", "split", "error"]


# A whole number as tables with gaps write it.
WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")

# From here on a float is no count of anything, and its digits are none of the file's.
MAX_EXACT_FLOAT = 2**53


def label_name(value: Any) -> str | None:
    """The name of a label however a file writes it: 1, 1.0 and "1.0" are one, and so are true and "True".

    None for what names nothing: null, NaN, and what is neither text nor a number.
    """
    if isinstance(value, str):
        value = value.strip()
        found = WHOLE_NUMBER.fullmatch(value)
        return found[1] if found else value.lower() if value in ("True", "False", "TRUE", "FALSE") else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, (float, Decimal)) or not math.isfinite(value):
        return None
    number = int(value)
    return str(number) if value == number and abs(number) < MAX_EXACT_FLOAT else str(value)


# Characters of a text that an error shows.
MAX_SHOWN = 60


class Unusable(Exception):
    """A sound record that makes no row under these settings; `reason` is what the count of dropped rows shows."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    # Share of an assistant message in the loss; 0 trains on the others only.
    weight: float = 1.0
    # What else the message holds, for its template to show: tool_calls, name, reasoning of any name, and so on.
    more: Mapping[str, Any] = field(default_factory=dict)

    def turn(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.more}


Prompt: TypeAlias = str | tuple[Message, ...]
# After a conversation, a string is one assistant message.
Answer: TypeAlias = str | tuple[Message, ...]

# Descriptions of functions, as chat templates take them.
Tools: TypeAlias = tuple[Mapping[str, Any], ...]

# Further values that a chat template may read, by their names: `enable_thinking`.
Variables: TypeAlias = Mapping[str, Any]


class Entity(NamedTuple):
    """Characters `start` to `stop` of a text are a `label`."""

    start: int
    stop: int
    label: str


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
    tools: Tools = ()
    variables: Variables = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        return _before_answer(self.messages)


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt, a better and a worse answer."""

    where: str
    prompt: Prompt
    chosen: Answer
    rejected: Answer
    tools: Tools = ()
    variables: Variables = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        return _prompt_key(self.prompt)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A prompt and one answer, called good or bad (KTO)."""

    where: str
    prompt: Prompt
    completion: Answer
    desirable: bool
    tools: Tools = ()
    variables: Variables = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        return _prompt_key(self.prompt)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and the name of its class."""

    where: str
    text: str
    label: str

    @property
    def prompt_key(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Multilabelled:
    """A text and the names of the classes it belongs to, none or several."""

    where: str
    text: str
    labels: tuple[str, ...]

    @property
    def prompt_key(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text in which some spans, none over another, have a label."""

    where: str
    text: str
    spans: tuple[Entity, ...]

    @property
    def prompt_key(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Paired:
    """A text, one that belongs to it, and any number that do not; `label` names what the two are about, if known."""

    where: str
    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    label: str | None = None

    @property
    def prompt_key(self) -> str:
        return self.anchor

    @property
    def texts(self) -> tuple[str, ...]:
        """The anchor, the positive, the negatives."""
        return (self.anchor, self.positive, *self.negatives)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two texts and how alike they are: a number, 1 for the same and 0 for nothing in common."""

    where: str
    one: str
    other: str
    score: float

    @property
    def prompt_key(self) -> str:
        return self.one

    @property
    def texts(self) -> tuple[str, ...]:
        """Both."""
        return (self.one, self.other)


@dataclass(frozen=True, slots=True)
class Choice:
    """A question, the answers to choose from, and the number of the right one."""

    where: str
    question: str
    choices: tuple[str, ...]
    gold: int

    @property
    def prompt_key(self) -> str:
        return self.question


@dataclass(frozen=True, slots=True)
class Posed:
    """A prompt whose answers are written while training, and judged.

    right  the right answer; empty where none is known
    row    all fields of the row, for judges of one's own
    """

    where: str
    prompt: Prompt
    right: str = ""
    tools: Tools = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        return _prompt_key(self.prompt)


Record: TypeAlias = (
    Text
    | Prompted
    | Chat
    | Preference
    | Unpaired
    | Labelled
    | Multilabelled
    | Tagged
    | Paired
    | Compared
    | Choice
    | Posed
)


def answered(messages: Answer) -> tuple[Message, ...]:
    """An answer to a conversation as messages."""
    return (Message("assistant", messages),) if isinstance(messages, str) else messages


def _prompt_key(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else _before_answer(prompt)


def _before_answer(messages: tuple[Message, ...]) -> str:
    """The messages up to the first answer to a user; a greeting before that says little of the prompt."""
    roles = [message.role for message in messages]
    first = roles.index("user") if "user" in roles else 0
    end = roles.index("assistant", first) if "assistant" in roles[first:] else len(roles)
    return "\n".join(f"{message.role}: {message.content}" for message in messages[:end])
