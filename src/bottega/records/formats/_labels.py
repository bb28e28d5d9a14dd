"""Parsing labels, spans and similarities, which several formats share."""

from __future__ import annotations

import json
from typing import Any

from bottega.errors import DataError
from bottega.records.fields import require_string
from bottega.records.labels import label_name

# Limit on the characters of a value quoted in a message.
MAX_QUOTED = 200


def parse_label(where: str, value: Any, name: str) -> str:
    """The normalized name of the label in the field `name`; a DataError if the value is no label."""
    label = label_name(value)
    if label is None and (value is None or isinstance(value, float)):
        fix = "label the row, or leave such rows out with data.bad_rows=drop"
        raise DataError(f"no {name}", where=f"{where}, field {name}", fix=fix)
    return require_string(where, {name: value if label is None else label}, name)


def parse_similarity(value: Any) -> float | None:
    """A similarity from 0 to 1; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # an integer may have any number of digits
        return None
    return number if 0 <= number <= 1 else None


def are_spans(value: Any) -> bool:
    """Whether a value is a list of spans rather than of labels."""
    if isinstance(value, dict):
        return "entities" in value
    return isinstance(value, list) and bool(value) and all(isinstance(item, (dict, list)) for item in value)


def quote(value: Any) -> str:
    """A value as rows write it, for a message; unpaired surrogates, which cannot be printed, are escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str).encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
