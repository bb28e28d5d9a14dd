"""Rows as checks see them, whatever their format; and where each stands, in twelve bytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bottega.records import (
    Answer,
    Chat,
    Choice,
    Compared,
    Labelled,
    Message,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompt,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
    answered,
)

READS = (
    Preference,
    Unpaired,
    Choice,
    Chat,
    Prompted,
    Multilabelled,
    Tagged,
    Labelled,
    Paired,
    Compared,
    Text,
    Posed,
)
"""Every record, the first first where a row could be several."""


class Entry(NamedTuple):
    """A row: its number, its record, and the parts that checks compare.

    asked    what a model is given, system prompts left out: many rows share them, and they say nothing of a row
    answer   what it is to say; a label, for a text that is classified
    content  what makes the row this row: two with nearly the same are one row written twice
    texts    every string of the row
    """

    number: int
    record: Record
    asked: str
    answer: str
    content: str
    texts: tuple[str, ...]

    @property
    def where(self) -> str:
        return self.record.where


def entry(number: int, record: Record) -> Entry:
    asked, answer, content, texts = PARTS[type(record)](record)
    return Entry(number, record, asked, answer, content, texts)


Parts = tuple[str, str, str, tuple[str, ...]]


def _text(record: Text) -> Parts:
    asked, answer = record.text[: record.answer], record.text[record.answer :]
    return asked, answer, record.text, (record.text,)


def _prompted(record: Prompted) -> Parts:
    return record.prompt, record.completion, f"{record.prompt}\n{record.completion}", (record.prompt, record.completion)


def _chat(record: Chat) -> Parts:
    said = [message for message in record.messages if message.role not in ("system", "developer")]
    first = next((place for place, message in enumerate(said) if message.role == "assistant"), len(said))
    asked, answer = _joined(said[:first]), _joined(said[first:])
    return asked, answer, f"{asked}\n{answer}", tuple(message.content for message in record.messages)


def _preference(record: Preference) -> Parts:
    asked, chosen, rejected = _prompt(record.prompt), _answer(record.chosen), _answer(record.rejected)
    return asked, f"{chosen}\n{rejected}", f"{asked}\n{chosen}\n{rejected}", (asked, chosen, rejected)


def _unpaired(record: Unpaired) -> Parts:
    asked, answer = _prompt(record.prompt), _answer(record.completion)
    return asked, f"{record.desirable} {answer}", f"{asked}\n{answer}", (asked, answer)


def _labelled(record: Labelled) -> Parts:
    return record.text, record.label, record.text, (record.text, record.label)


def _multilabelled(record: Multilabelled) -> Parts:
    return record.text, "\n".join(sorted(record.labels)), record.text, (record.text, *record.labels)


def _tagged(record: Tagged) -> Parts:
    return record.text, repr(record.spans), record.text, (record.text,)


def _paired(record: Paired) -> Parts:
    return record.anchor, record.positive, "\n".join(record.texts), record.texts


def _compared(record: Compared) -> Parts:
    both = "\n".join(record.texts)
    return both, str(record.score), both, record.texts


def _choice(record: Choice) -> Parts:
    asked = "\n".join((record.question, *record.choices))
    return asked, record.choices[record.gold], asked, (record.question, *record.choices)


def _posed(record: Posed) -> Parts:
    asked = _prompt(record.prompt)
    return asked, record.right, f"{asked}\n{record.right}", (asked, record.right)


PARTS: Mapping[type, Callable[[Any], Parts]] = {
    Text: _text,
    Prompted: _prompted,
    Chat: _chat,
    Preference: _preference,
    Unpaired: _unpaired,
    Labelled: _labelled,
    Multilabelled: _multilabelled,
    Tagged: _tagged,
    Paired: _paired,
    Compared: _compared,
    Choice: _choice,
    Posed: _posed,
}


def _joined(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return _joined(message for message in prompt if message.role not in ("system", "developer"))


def _answer(answer: Answer) -> str:
    return answer if isinstance(answer, str) else _joined(answered(answer))


class Places:
    """Where rows stand, by their numbers: `tickets.jsonl line 812`."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._name, self._line = array("l"), array("q")

    def add(self, where: str) -> int:
        """The number of the row there."""
        name, _, line = where.rpartition(" ")
        self._name.append(self._names.setdefault(name, len(self._names)))
        self._line.append(int(line))
        return len(self._line) - 1

    def __len__(self) -> int:
        return len(self._line)

    def __getitem__(self, number: int) -> str:
        return f"{list(self._names)[self._name[number]]} {self._line[number]}"

    def counted(self, rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The rows as they are, each given the next number."""
        for where, fields in rows:
            self.add(where)
            yield where, fields
