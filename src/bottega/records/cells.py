"""Lists in the cells of tables: as JSON, or as Python or numpy print them, which is how pandas writes them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from bottega.records.field_names import (
    CHOICE_FIELDS,
    CHOSEN_FIELDS,
    COMPLETION_FIELDS,
    LABEL_FIELDS,
    LABEL_LIST_FIELDS,
    MESSAGE_FIELDS,
    NEGATIVE_FIELD,
    QUESTION_FIELDS,
    REJECTED_FIELDS,
    SPAN_FIELDS,
    TAG_FIELDS,
    TOKEN_FIELDS,
)
from bottega.records.fields import Fields
from bottega.records.messages import is_message_list

# Longer lists are parsed as JSON only: `ast.literal_eval` takes about twenty microseconds per item.
MAX_LITERAL_COMMAS = 4096

STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
ITEM = rf"(?:{STRING}|-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)"
# A numpy array as text: its items are separated by white space only.
ARRAY = re.compile(rf"\[\s*{ITEM}(?:\s+{ITEM})*\s*\]", re.DOTALL)


def parse_list(cell: Any) -> list[Any] | None:
    """The list written in a table cell as JSON, a Python literal or a numpy array; None if it is no list."""
    text = cell.rstrip() if isinstance(cell, str) else ""
    if text[:1] != "[" or text[-1:] != "]":
        return None
    readers: list[Callable[[str], Any]] = [json.loads, _parse_numpy, _parse_python]
    for read in readers if text.count(",") <= MAX_LITERAL_COMMAS else readers[:1]:
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) else None
    return None


def _parse_numpy(text: str) -> list[Any]:
    if ARRAY.fullmatch(text) is None:
        raise ValueError
    return [ast.literal_eval(item) for item in re.findall(ITEM, text, re.DOTALL)]


def _parse_python(text: str) -> Any:
    """Parse a Python literal. Adjacent strings raise a ValueError: Python would join two items without a comma."""
    if re.search("\0\\s*\0", re.sub(STRING, "\0", text, flags=re.DOTALL)):
        raise ValueError
    return ast.literal_eval(text)


# Which fields of a row may hold a list as text, and what kind of list

ANY_LIST_FIELDS = frozenset(
    {
        *(*MESSAGE_FIELDS, *LABEL_FIELDS, *LABEL_LIST_FIELDS, *SPAN_FIELDS),
        *(*TOKEN_FIELDS, *TAG_FIELDS, *CHOICE_FIELDS),
        *("tools", "functions", "history", "completions"),
    }
)
MESSAGE_LIST_FIELDS = frozenset({"prompt", *COMPLETION_FIELDS, *QUESTION_FIELDS, *CHOSEN_FIELDS, *REJECTED_FIELDS})
TEXT_LIST_FIELDS = frozenset({"positive", "pos", "answers", "targets"})


def parse_list_cells(fields: Fields) -> Fields:
    """The row with lists in place of table cells that hold one as text."""
    for given_name, value in fields.items():
        accepts = _list_check(given_name)
        items = parse_list(value) if accepts else None
        if accepts and items is not None and accepts(items):
            fields = {**fields, given_name: items}
    return fields


# Rows have the same few names, but a file may give each row names of its own.
@lru_cache(1024)
def _list_check(given_name: str) -> Callable[[list[Any]], bool] | None:
    """Which lists count as a list in the field of that name; None if its cells are always text.

    A prompt or an answer may well be a text in brackets, so in those fields only a list of messages counts.
    """
    name = given_name.strip().lower()
    if name in ANY_LIST_FIELDS:
        return lambda items: True
    if name in MESSAGE_LIST_FIELDS:
        return is_message_list
    if name in TEXT_LIST_FIELDS or NEGATIVE_FIELD.fullmatch(name):
        return lambda items: all(isinstance(item, str) for item in items)
    return None
