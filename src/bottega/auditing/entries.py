"""A record in the form that checks compare, whatever its type; and the locations of rows, in sixteen bytes each."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping
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

# Every record type. The order decides where a row could be parsed as several of them.
RECORD_TYPES = (
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

# Messages that many rows share and that say nothing about a single one; left out of prompts.
SYSTEM_ROLES = ("system", "developer")

# Identifiers that only link a tool call with its result. They are often random, so they are left out of comparisons.
CALL_ID_FIELDS = ("id", "tool_call_id")


class Entry(NamedTuple):
    """A record, and the parts of it that checks compare.

    row      index of the row among all rows of the audit; comparison sets come before the data
    prompt   the input of the model without system messages, which many rows share
    answer   the output; the label, if a text is classified
    content  the text that identifies the row: two rows with nearly the same content are near duplicates
    texts    every string of the row
    extras   what else the row teaches: tool calls, reasoning, tools, system prompts, weights, labels
    """

    row: int
    record: Record
    prompt: str
    answer: str
    content: str
    texts: tuple[str, ...]
    extras: str

    @property
    def where(self) -> str:
        """The location of the row: `tickets.jsonl line 812`."""
        return self.record.where


# (prompt, answer, content, texts, extras), as in Entry.
Parts = tuple[str, str, str, tuple[str, ...], str]


def create_entry(row: int, record: Record) -> Entry:
    """The entry of a record of any type."""
    return Entry(row, record, *EXTRACTORS[type(record)](record))


def _text_parts(record: Text) -> Parts:
    # `answer` is the offset at which the answer starts; 0 for a document without a prompt.
    prompt, answer = record.text[: record.answer], record.text[record.answer :]
    return prompt, answer, record.text, (record.text,), ""


def _prompted_parts(record: Prompted) -> Parts:
    texts = (record.prompt, record.completion)
    return record.prompt, record.completion, "\n".join(texts), texts, ""


def _chat_parts(record: Chat) -> Parts:
    turns = [message for message in record.messages if message.role not in SYSTEM_ROLES]
    first_answer = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    prompt, answer = _join_contents(turns[:first_answer]), _join_contents(turns[first_answer:])
    texts = tuple(message.content for message in record.messages)
    return prompt, answer, f"{prompt}\n{answer}", texts, _extras(record.messages, record)


def _preference_parts(record: Preference) -> Parts:
    prompt, chosen, rejected = _prompt_text(record.prompt), _answer_text(record.chosen), _answer_text(record.rejected)
    extras = "\0".join(map(_extras, (record.prompt, record.chosen, record.rejected))) + _template_inputs(record)
    return prompt, f"{chosen}\n{rejected}", f"{prompt}\n{chosen}\n{rejected}", (prompt, chosen, rejected), extras


def _unpaired_parts(record: Unpaired) -> Parts:
    prompt, answer = _prompt_text(record.prompt), _answer_text(record.completion)
    extras = f"{record.desirable}\0{_extras(record.prompt)}\0{_extras(record.completion, record)}"
    return prompt, f"{record.desirable} {answer}", f"{prompt}\n{answer}", (prompt, answer), extras


def _labelled_parts(record: Labelled) -> Parts:
    return record.text, record.label, record.text, (record.text, record.label), record.label


def _multilabelled_parts(record: Multilabelled) -> Parts:
    labels = "\n".join(sorted(record.labels))
    return record.text, labels, record.text, (record.text, *record.labels), labels


def _tagged_parts(record: Tagged) -> Parts:
    # Extras hold the tagged words rather than their offsets, so that added white space makes no difference.
    tagged = repr([(record.text[span.start : span.stop], span.label) for span in record.spans])
    return record.text, repr(record.spans), record.text, (record.text,), tagged


def _paired_parts(record: Paired) -> Parts:
    extras = repr((record.label, record.negatives))
    return record.anchor, record.positive, "\n".join(record.texts), record.texts, extras


def _compared_parts(record: Compared) -> Parts:
    both = "\n".join(record.texts)
    return both, str(record.score), both, record.texts, str(record.score)


def _choice_parts(record: Choice) -> Parts:
    prompt, reference = "\n".join((record.question, *record.choices)), record.choices[record.gold]
    return prompt, reference, prompt, (record.question, *record.choices), reference


def _posed_parts(record: Posed) -> Parts:
    prompt = _prompt_text(record.prompt)
    # Rewards may read any field of the row, so rows that differ in one of them teach different things.
    fields = {name: value for name, value in record.row.items() if value not in (record.prompt, prompt, record.right)}
    extras = f"{_extras(record.prompt, record)}\0{_canonical_json(fields)}"
    return prompt, record.right, f"{prompt}\n{record.right}", (prompt, record.right), extras


EXTRACTORS: Mapping[type, Callable[[Any], Parts]] = {
    Text: _text_parts,
    Prompted: _prompted_parts,
    Chat: _chat_parts,
    Preference: _preference_parts,
    Unpaired: _unpaired_parts,
    Labelled: _labelled_parts,
    Multilabelled: _multilabelled_parts,
    Tagged: _tagged_parts,
    Paired: _paired_parts,
    Compared: _compared_parts,
    Choice: _choice_parts,
    Posed: _posed_parts,
}


def full_answer(answer: Answer) -> str:
    """An answer as one string, tool calls and reasoning included: equal strings teach the same."""
    if isinstance(answer, str):
        return answer
    return "\0".join([*(message.content for message in answer), _extras(answer)]).rstrip("\0")


# Records whose chat template receives more than messages.
TemplateRecord = Chat | Preference | Unpaired | Posed


def _template_inputs(record: TemplateRecord) -> str:
    """The tools and variables that the chat template receives; empty without any."""
    return _canonical_json(record.tools) + _canonical_json(record.variables)


def _extras(messages: Prompt, record: TemplateRecord | None = None) -> str:
    """What messages teach beyond their contents; empty for a plain text and for plain messages.

    record  adds the record's tools and template variables
    """
    extras = [
        (
            message.role,
            message.weight,
            _canonical_json(message.more),
            message.content if message.role in SYSTEM_ROLES else "",
        )
        for message in (() if isinstance(messages, str) else messages)
        if message.more or message.weight != 1 or message.role in SYSTEM_ROLES
    ]
    return (repr(extras) if extras else "") + (_template_inputs(record) if record else "")


def _canonical_json(value: Any) -> str:
    """JSON that is equal for equal data, whatever the order of keys and the ids of tool calls; empty for no data."""
    return json.dumps(_without_call_ids(value), sort_keys=True, default=str) if value else ""


def _without_call_ids(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_call_ids(inner) for name, inner in value.items() if name not in CALL_ID_FIELDS}
    return [_without_call_ids(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _join_contents(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return _join_contents(message for message in prompt if message.role not in SYSTEM_ROLES)


def _answer_text(answer: Answer) -> str:
    return answer if isinstance(answer, str) else _join_contents(answered(answer))


class RowLocations:
    """The location of every row by its index: `locations[811]` is `tickets.jsonl line 812`.

    Stored as a number for `tickets.jsonl line` and one for `812`: strings would take several times the memory.
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._name_ids, self._lines = array("l"), array("q")

    def add(self, where: str) -> int:
        """Store a location that ends in a number; returns the index of its row."""
        name, _, line = where.rpartition(" ")
        self._name_ids.append(self._names.setdefault(name, len(self._names)))
        self._lines.append(int(line))
        return len(self._lines) - 1

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> str:
        return f"{list(self._names)[self._name_ids[index]]} {self._lines[index]}"
