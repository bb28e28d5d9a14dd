"""Rows as checks see them, whatever their format; and where each stands, in twelve bytes."""

from __future__ import annotations

import json
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
    rest     what else it teaches: calls, reasoning, tools, system prompts, weights, labels
    """

    number: int
    record: Record
    asked: str
    answer: str
    content: str
    texts: tuple[str, ...]
    rest: str

    @property
    def where(self) -> str:
        return self.record.where


def entry(number: int, record: Record) -> Entry:
    asked, answer, content, texts, rest = PARTS[type(record)](record)
    return Entry(number, record, asked, answer, content, texts, rest)


Parts = tuple[str, str, str, tuple[str, ...], str]


def _text(record: Text) -> Parts:
    asked, answer = record.text[: record.answer], record.text[record.answer :]
    return asked, answer, record.text, (record.text,), ""


def _prompted(record: Prompted) -> Parts:
    texts = (record.prompt, record.completion)
    return record.prompt, record.completion, "\n".join(texts), texts, ""


def _chat(record: Chat) -> Parts:
    said = [message for message in record.messages if message.role not in SYSTEM]
    first = next((place for place, message in enumerate(said) if message.role == "assistant"), len(said))
    asked, answer = _joined(said[:first]), _joined(said[first:])
    texts = tuple(message.content for message in record.messages)
    return asked, answer, f"{asked}\n{answer}", texts, _beside(record.messages, record)


def _preference(record: Preference) -> Parts:
    asked, chosen, rejected = _prompt(record.prompt), _answer(record.chosen), _answer(record.rejected)
    rest = "\0".join(map(_beside, (record.prompt, record.chosen, record.rejected))) + _given(record)
    return asked, f"{chosen}\n{rejected}", f"{asked}\n{chosen}\n{rejected}", (asked, chosen, rejected), rest


def _unpaired(record: Unpaired) -> Parts:
    asked, answer = _prompt(record.prompt), _answer(record.completion)
    rest = f"{record.desirable}\0{_beside(record.prompt)}\0{_beside(record.completion, record)}"
    return asked, f"{record.desirable} {answer}", f"{asked}\n{answer}", (asked, answer), rest


def _labelled(record: Labelled) -> Parts:
    return record.text, record.label, record.text, (record.text, record.label), record.label


def _multilabelled(record: Multilabelled) -> Parts:
    labels = "\n".join(sorted(record.labels))
    return record.text, labels, record.text, (record.text, *record.labels), labels


def _tagged(record: Tagged) -> Parts:
    marked = repr([(record.text[span.start : span.stop], span.label) for span in record.spans])
    return record.text, repr(record.spans), record.text, (record.text,), marked


def _paired(record: Paired) -> Parts:
    return record.anchor, record.positive, "\n".join(record.texts), record.texts, repr((record.label, record.negatives))


def _compared(record: Compared) -> Parts:
    both = "\n".join(record.texts)
    return both, str(record.score), both, record.texts, str(record.score)


def _choice(record: Choice) -> Parts:
    asked, right = "\n".join((record.question, *record.choices)), record.choices[record.gold]
    return asked, right, asked, (record.question, *record.choices), right


def _posed(record: Posed) -> Parts:
    asked = _prompt(record.prompt)
    others = {name: value for name, value in record.row.items() if value not in (record.prompt, asked, record.right)}
    rest = f"{_beside(record.prompt, record)}\0{_plain(others)}"
    return asked, record.right, f"{asked}\n{record.right}", (asked, record.right), rest


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


SYSTEM = ("system", "developer")

NAMES = ("id", "tool_call_id")
"""What calls are told apart by, and nothing else."""


def whole(answer: Answer) -> str:
    """All of an answer, calls and reasoning included: two that are the same teach the same."""
    if isinstance(answer, str):
        return answer
    return "\0".join([*(message.content for message in answer), _beside(answer)]).rstrip("\0")


Talk = Chat | Preference | Unpaired | Posed
"""Records whose chat template is given more than messages."""


def _given(record: Talk) -> str:
    """What the template is given beside the messages; empty for nothing."""
    return _plain(record.tools) + _plain(record.variables)


def _beside(prompt: Prompt, record: Talk | None = None) -> str:
    """What a conversation teaches beside what is said in it; empty for a text, and where there is nothing such."""
    found = [
        (message.role, message.weight, _plain(message.more), message.content if message.role in SYSTEM else "")
        for message in (() if isinstance(prompt, str) else prompt)
        if message.more or message.weight != 1 or message.role in SYSTEM
    ]
    return repr(found) * bool(found) + (_given(record) if record else "")


def _plain(value: Any) -> str:
    """Plain data as a text, however its fields are ordered and its calls are named; empty for none."""
    return json.dumps(_unnamed(value), sort_keys=True, default=str) if value else ""


def _unnamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _unnamed(inner) for name, inner in value.items() if name not in NAMES}
    return [_unnamed(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _joined(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return _joined(message for message in prompt if message.role not in SYSTEM)


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
