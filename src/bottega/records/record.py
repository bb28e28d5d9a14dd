"""The base classes of records, and what the rest of the package may ask of any record.

A record is a plain value: it knows no tokenizer and no model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from bottega.records.conversation import reduce_dataclass

if TYPE_CHECKING:
    from bottega.records.prompts import Chat

# What happens to a record with more tokens than `data.max_length`.
TooLong = Literal["shorten", "drop", "truncate", "split", "error"]

# Characters of a text that an error message quotes.
MAX_SHOWN = 60


class RecordParts(NamedTuple):
    """The parts of a record that an audit compares.

    prompt   the input of the model without system messages, which many rows share
    answer   the output; the label, if a text is classified
    content  the text that identifies the row: two rows with nearly the same content are near duplicates
    texts    every string of the row
    extras   what else the row teaches: tool calls, reasoning, tools, system prompts, weights, labels
    """

    prompt: str
    answer: str
    content: str
    texts: tuple[str, ...]
    extras: str = ""


@dataclass(frozen=True, slots=True)
class Record(ABC):
    """A parsed row of data.

    To add a class of records, derive it from this one as a frozen dataclass with slots, in the file of its format.

    where              location of the row (file and line), which error messages quote
    priority           where no objective prefers a class, a row that could be several is read as the lowest of them
    has_right_answer   answers are right or wrong: two rows with the same input and different answers contradict
    """

    where: str

    # Before the built-in classes, which take 10 to 120: a new class knows its rows better than they do.
    priority: ClassVar[int] = 0
    has_right_answer: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_dataclass(self)

    @property
    @abstractmethod
    def prompt_key(self) -> str:
        """The prompt as text. Records with the same key are never on different sides of a validation split."""

    @abstractmethod
    def parts(self) -> RecordParts:
        """The parts that an audit compares."""

    @property
    def input_texts(self) -> tuple[str, ...]:
        """The texts that a model reads whole: to classify, tag or embed them."""
        return self.parts().texts

    # Not `labels`: a dataclass would take an inherited property of that name as the default of a field.
    @property
    def label_names(self) -> Sequence[str]:
        """The names of the record's classes, or of the classes of its spans; empty if it has no labels."""
        return ()

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        """(text, whether offsets are needed to locate an answer) of texts that are certain to be encoded.

        Many of them are then encoded in one call. Only texts that are known without the objective and without a chat
        template. A text missing here is encoded later, one that is never encoded costs time: neither changes a row.
        """
        return ()


class ChatLike(Record):
    """A record that can be written as a conversation which ends with the answer; sft learns any class of these."""

    __slots__ = ()

    @abstractmethod
    def as_chat(self) -> Chat:
        """The record as a conversation."""
