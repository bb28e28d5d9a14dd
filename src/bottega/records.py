"""Records: the parsed rows of data, one class for each kind of task, independent of the file format.

`where` is the location of the row (file and line), which error messages quote. Records with the same `prompt_key` must
never be on different sides of a validation split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeAlias

# What happens to a record with more tokens than `data.max_length`.
TooLong = Literal["shorten", "drop", "truncate", "split", "error"]


# A whole number as pandas writes it in a column with missing values: 3.0.
WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")

# From here on floats skip integers, so the digits of an integer made from one are not those of the file.
MAX_EXACT_FLOAT = 2**53


def label_name(value: Any) -> str | None:
    """The normalized name of a label: 1, 1.0 and "1.0" are the same label, and so are true and "True".

    None if the value is no label: null, NaN, or neither text nor a number.
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


# Characters of a text that an error message quotes.
MAX_SHOWN = 60


class Unusable(Exception):
    """Raised for a valid record that makes no token row under the recipe's settings; `reason` is counted and shown."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    # Weight of an assistant message in the loss; 0 excludes it.
    weight: float = 1.0
    # All other keys of the message, for the chat template: tool_calls, name, reasoning under any name.
    more: Mapping[str, Any] = field(default_factory=dict)

    def turn(self) -> dict[str, Any]:
        """The message as a dict, as chat templates expect it."""
        return {"role": self.role, "content": self.content, **self.more}


Prompt: TypeAlias = str | tuple[Message, ...]
# As the answer to a conversation, a string stands for one assistant message.
Answer: TypeAlias = str | tuple[Message, ...]

# Function descriptions (JSON schema), as chat templates expect them.
Tools: TypeAlias = tuple[Mapping[str, Any], ...]

# Further variables of the chat template by name, such as `enable_thinking`.
Variables: TypeAlias = Mapping[str, Any]


class Entity(NamedTuple):
    """Characters `start` to `stop` of a text are a `label`."""

    start: int
    stop: int
    label: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text to model; `answer` is the offset in characters at which the loss starts (with a `text_template`)."""

    where: str
    text: str
    answer: int = 0

    @property
    def prompt_key(self) -> str:
        return self.text[: self.answer] or self.text


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt and its completion, both used verbatim, without a chat template."""

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
    """A prompt with a preferred and a rejected answer."""

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
    """A prompt and one answer that is desirable or not (KTO)."""

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
    """A text with labelled spans that do not overlap."""

    where: str
    text: str
    spans: tuple[Entity, ...]

    @property
    def prompt_key(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Paired:
    """An anchor text, a positive, any number of negatives, and the class of the anchor and the positive if known."""

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
    """Two texts and their similarity, from 0 (unrelated) to 1 (same meaning)."""

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
    """A question, its answer choices, and the index of the correct one."""

    where: str
    question: str
    choices: tuple[str, ...]
    gold: int

    @property
    def prompt_key(self) -> str:
        return self.question


@dataclass(frozen=True, slots=True)
class Posed:
    """A prompt whose answers are generated and rewarded during training.

    right  reference answer; empty if there is none
    row    all fields of the row, for user-defined rewards
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
    """The answer to a conversation as messages."""
    return (Message("assistant", messages),) if isinstance(messages, str) else messages


def _prompt_key(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else _before_answer(prompt)


def _before_answer(messages: tuple[Message, ...]) -> str:
    """The messages before the first answer to a user, as text."""
    # An assistant message before the first user message is a greeting, the same in many conversations.
    roles = [message.role for message in messages]
    first = roles.index("user") if "user" in roles else 0
    end = roles.index("assistant", first) if "assistant" in roles[first:] else len(roles)
    return "\n".join(f"{message.role}: {message.content}" for message in messages[:end])
