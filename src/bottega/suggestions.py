"""Validation errors of pydantic in plain words, and suggestions for misspelt names.

Knows nothing of recipes: which keys a section has is up to the caller.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Limits on a list of names in a message: names, and characters per name.
MAX_NAMES, MAX_NAME_LENGTH = 10, 40

# Limit on the characters of a value quoted in a message.
MAX_VALUE_LENGTH = 60

# pydantic's error type → what was expected. Types that mean the same to a user share their words.
EXPECTED_VALUES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number with fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section (key: value)",
    "model_type": "a section (key: value)",
    "model_attributes_type": "a section (key: value)",
}

BOUNDS = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}


def error_keys(problem: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """The path of keys and list indices to a problem.

    pydantic's `loc` also names the branch of a union it tried, such as `list[Source]`. Those parts are recognized by
    not being in the document, and left out.
    """
    keys: list[str] = []
    value: Any = document
    if not problem["loc"]:
        return []
    *path, last = problem["loc"]
    for part in path:
        if _has_key(value, part):
            value = value[part]
            keys.append(str(part))
    # A missing key is not in the document, yet it is the one to name.
    is_key = problem["type"] in ("missing", "extra_forbidden", "invalid_key") or _has_key(value, last)
    return [*keys, str(last)] if is_key else keys


def _has_key(value: Any, key: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(key, int) and key < len(value)
    return isinstance(value, Mapping) and key in value


def describe_errors(problems: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """(what is wrong, what to write instead) for the errors of one value; the second may be empty.

    A union reports one error per type it allows, so several may describe the same mistake.
    """
    bound = next((problem for problem in problems if problem["type"] in BOUNDS), None)
    if bound is not None:
        limit = BOUNDS[bound["type"]].format(**bound["ctx"])
        return f"{_format_value(bound['input'])} is out of range: it must be {limit}", f"write a number that is {limit}"
    literals = [
        name for problem in problems if problem["type"] == "literal_error" for name in _allowed_literals(problem)
    ]
    # A dict as an ordered set: several types have the same words.
    expected = dict.fromkeys(EXPECTED_VALUES[item["type"]] for item in problems if item["type"] in EXPECTED_VALUES)
    value = problems[0]["input"]
    if literals:
        return f"{_format_value(value)} is not one of its values", _suggest_choice(str(value), literals)
    if expected:
        words = " or ".join(expected)
        return f"expected {words}, not {_format_value(value)}", f"write {words}"
    return _describe_error(problems[0])


def _describe_error(problem: Mapping[str, Any]) -> tuple[str, str]:
    """(what is wrong, what to write instead) for an error that is neither of a type, of a bound nor of a choice."""
    limits = problem.get("ctx", {})
    match problem["type"]:
        case "too_short" if problem["input"]:
            return f"the list has fewer than {limits['min_length']} items", "write more"
        case "too_short" | "missing_argument":
            return "the list is empty", "write at least one item"
        case "too_long" if isinstance(problem["input"], Mapping):
            return f"the section has more than {limits['max_length']} items", "leave some out"
        case "too_long":
            return f"the list has more than {limits['max_length']} items", "leave some out"
        case "string_too_short" if problem["input"]:
            return f"the text has fewer than {limits['min_length']} characters", "write a longer one"
        case "string_too_short":
            return "the text is empty", "write at least one character"
        case "string_too_long":
            return f"the text has more than {limits['max_length']} characters", "write a shorter one"
        case "missing":
            return "the value is missing", "write one"
        case "extra_forbidden":
            return "there is no field of this name", "leave it out"
        case "json_invalid":
            return "this is not JSON", "write JSON"
        case _:
            # Of a validator of our own; of others, pydantic's words.
            message = str(problem["msg"]).removeprefix("Value error, ")
            return message[:1].lower() + message[1:], ""


def _allowed_literals(problem: Mapping[str, Any]) -> list[str]:
    """The allowed values, which pydantic gives as text only: `'auto', 'cpu' or 'cuda'`."""
    return [name.strip("'") for name in re.split(r", | or ", problem["ctx"]["expected"])]


def _suggest_choice(word: str, known: Sequence[str]) -> str:
    return f"one of: {', '.join(known)}" if len(known) <= MAX_NAMES else suggest_name(word, known)


def suggest_name(word: str, known: Sequence[str]) -> str:
    """The known name most like a misspelt one, or the known names if none is similar."""
    nearest = nearest_name(word, known)
    return f"known: {join_names(sorted(known))}" if nearest is None else f"did you mean {nearest}?"


def nearest_name(word: str, known: Sequence[str]) -> str | None:
    """The known name most like a misspelt one; None if none is similar."""
    return next(iter(difflib.get_close_matches(word, known, 1, cutoff=0.5)), None)


def join_names(names: Iterable[object]) -> str:
    """Names joined by commas, at most MAX_NAMES of them, long ones cut."""
    texts = [str(name) for name in names]
    shown = [text if len(text) <= MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}…" for text in texts[:MAX_NAMES]]
    return ", ".join(shown) + (f" … and {len(texts) - MAX_NAMES} more" if len(texts) > MAX_NAMES else "")


def _format_value(value: Any) -> str:
    """A value as written in a recipe; containers by their type, long values cut."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "a section"
    text = repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]} …"
