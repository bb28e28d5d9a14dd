"""Rows as records, and what the rows of the tests of records are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from bottega import objectives
from bottega.errors import DataError
from bottega.records import Chat, Message, Prompted, Record, Text
from bottega.records.parser import parse_rows

ASK, SAY, NO = Message("user", "q"), Message("assistant", "a"), Message("assistant", "b")
BRIEF = Message("system", "Be brief.")
USER, BOT, BAD = ({"role": one.role, "content": one.content} for one in (ASK, SAY, NO))
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT, WORSE = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PASSAGE = Message("user", "c\n\nq")

SFT = (Chat, Prompted, Text)
TALK, SPOKEN = [USER, BOT], (ASK, SAY)

ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": TALK},
    "instruction": {"instruction": "q", "output": "a"},
    "prompted": {"prompt": "q", "completion": "a"},
    "question": {"question": "q", "answer": "a"},
    "summary": {"source": "q", "summary": "a"},
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "openai_preference": {
        "input": {"messages": TALK[:1]},
        "preferred_output": TALK[1:],
        "non_preferred_output": [{"role": "assistant", "content": "b"}],
    },
    "unpaired": {"prompt": "q", "completion": "a", "label": True},
    "labelled": {"text": "t", "label": "l"},
    "labelled_pair": {"sentence1": "a", "sentence2": "b", "label": "l"},
    "multilabelled": {"text": "t", "labels": ["l", "m"]},
    "conll": {"tokens": ["t"], "tags": ["O"]},
    "spans": {"text": "t", "spans": []},
    "paired": {"anchor": "a", "positive": "p"},
    "compared": {"sentence1": "a", "sentence2": "b", "score": 0.5},
    "choice": {"question": "q", "choices": ["a", "b"], "gold": 0},
    "lettered_choice": {"question": "q", "A": "a", "B": "b", "gold": "A"},
    "posed": {"prompt": "q"},
    "text": {"text": "t"},
}


def parse(rows: Iterable[dict[str, Any]], *reads: type, **options: Any) -> list[Record]:
    numbered = ((f"file line {line}", fields) for line, fields in enumerate(rows, 1))
    return list(parse_rows(numbered, reads or SFT, **options))


def one(fields: dict[str, Any], *reads: type, **options: Any) -> Any:
    (record,) = parse([fields], *reads, **options)
    return record


def refused(
    fields: dict[str, Any], *reads: type, what: str | None = None, where: str = "file line 1", **options: Any
) -> DataError:
    with pytest.raises(DataError, match=what) as caught:
        parse([fields], *reads, **options)
    assert caught.value.where is not None
    assert caught.value.where.startswith(where)
    assert caught.value.fix
    return caught.value


def parse_for(fields: dict[str, Any], kind: str) -> Any:
    return one(fields, *objectives.load(kind).reads)
