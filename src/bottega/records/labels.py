"""Records of labelled texts: classes, tagged spans, and text pairs with a similarity."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

from bottega.records.conversation import Message
from bottega.records.prompts import Chat
from bottega.records.record import ChatLike, Record, RecordParts

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
        match = WHOLE_NUMBER.fullmatch(value)
        return match[1] if match else value.lower() if value in ("True", "False", "TRUE", "FALSE") else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, (float, Decimal)) or not math.isfinite(value):
        return None
    number = int(value)
    return str(number) if value == number and abs(number) < MAX_EXACT_FLOAT else str(value)


class Entity(NamedTuple):
    """Characters `start` to `stop` of a text are a `label`."""

    start: int
    stop: int
    label: str


@dataclass(frozen=True, slots=True)
class TextRecord(Record):
    """A text that is classified whole."""

    text: str

    @property
    def prompt_key(self) -> str:
        return self.text

    @property
    def input_texts(self) -> tuple[str, ...]:
        return (self.text,)

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        return [(self.text, False)]


@dataclass(frozen=True, slots=True)
class Labelled(TextRecord):
    """A text and the name of its class."""

    label: str

    priority: ClassVar[int] = 80
    has_right_answer: ClassVar[bool] = True

    @property
    def label_names(self) -> Sequence[str]:
        return (self.label,)

    def parts(self) -> RecordParts:
        return RecordParts(self.text, self.label, self.text, (self.text, self.label), self.label)


@dataclass(frozen=True, slots=True)
class Multilabelled(TextRecord):
    """A text and the names of the classes it belongs to, none or several."""

    labels: tuple[str, ...]

    priority: ClassVar[int] = 60
    has_right_answer: ClassVar[bool] = True

    @property
    def label_names(self) -> Sequence[str]:
        return self.labels

    def parts(self) -> RecordParts:
        labels = "\n".join(sorted(self.labels))
        return RecordParts(self.text, labels, self.text, (self.text, *self.labels), labels)


@dataclass(frozen=True, slots=True)
class Tagged(ChatLike):
    """A text with labelled spans that do not overlap."""

    text: str
    spans: tuple[Entity, ...]

    priority: ClassVar[int] = 70
    has_right_answer: ClassVar[bool] = True

    @property
    def prompt_key(self) -> str:
        return self.text

    @property
    def label_names(self) -> Sequence[str]:
        return [span.label for span in self.spans]

    def parts(self) -> RecordParts:
        # Extras hold the tagged words rather than their offsets, so that added white space makes no difference.
        tagged = repr([(self.text[span.start : span.stop], span.label) for span in self.spans])
        return RecordParts(self.text, repr(self.spans), self.text, (self.text,), tagged)

    def as_chat(self) -> Chat:
        """The text as the question, and the list of its spans as JSON as the answer."""
        tagged = [{"label": label, "text": self.text[start:stop]} for start, stop, label in self.spans]
        answer = Message("assistant", json.dumps(tagged, ensure_ascii=False))
        return Chat(self.where, (Message("user", self.text), answer))


@dataclass(frozen=True, slots=True)
class Paired(Record):
    """An anchor text, a positive, any number of negatives, and the class of the anchor and the positive if known."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    label: str | None = None

    priority: ClassVar[int] = 90

    @property
    def prompt_key(self) -> str:
        return self.anchor

    @property
    def texts(self) -> tuple[str, ...]:
        """The anchor, the positive, the negatives."""
        return (self.anchor, self.positive, *self.negatives)

    def parts(self) -> RecordParts:
        extras = repr((self.label, self.negatives))
        return RecordParts(self.anchor, self.positive, "\n".join(self.texts), self.texts, extras)

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        return [(text, False) for text in self.texts]


@dataclass(frozen=True, slots=True)
class Compared(Record):
    """Two texts and their similarity, from 0 (unrelated) to 1 (same meaning)."""

    one: str
    other: str
    score: float

    priority: ClassVar[int] = 100

    @property
    def prompt_key(self) -> str:
        return self.one

    @property
    def texts(self) -> tuple[str, ...]:
        """Both texts."""
        return (self.one, self.other)

    def parts(self) -> RecordParts:
        both = "\n".join(self.texts)
        return RecordParts(both, str(self.score), both, self.texts, str(self.score))

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        return [(text, False) for text in self.texts]
