"""Lists in the cells of tables: as JSON, or as Python or numpy print them, which is how pandas writes them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

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
            found = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
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
