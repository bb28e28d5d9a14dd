"""What is wrong with a value that was given, in plain words: pydantic finds it, and this says it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_NAMES, MAX_NAME_LENGTH = 10, 40
"""Names that are listed, and characters of one, at the most."""

EXPECTED_VALUES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
}
"""What should have stood there, by the type of pydantic's error."""

BOUNDS = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}


def error_keys(problem: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """The keys that lead to what is wrong; pydantic also names the branch of a union it tried, which is no key."""
    found: list[str] = []
    at: Any = document
    if not problem["loc"]:
        return []
    *path, last = problem["loc"]
    for part in path:
        if _has_key(at, part):
            at = at[part]
            found.append(str(part))
    named = problem["type"] in ("missing", "extra_forbidden", "invalid_key") or _has_key(at, last)
    return [*found, str(last)] if named else found


def _has_key(part: Any, key: str | int) -> bool:
    if isinstance(part, list):
        return isinstance(key, int) and key < len(part)
    return isinstance(part, Mapping) and key in part


def describe_errors(problems: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """(what is wrong with one value, what to write instead); a union finds something wrong for each thing it allows."""
    bound = next((one for one in problems if one["type"] in BOUNDS), None)
    if bound is not None:
        limit = BOUNDS[bound["type"]].format(**bound["ctx"])
        return f"{_format_value(bound['input'])} is out of range: it must be {limit}", f"write a number that is {limit}"
    known = [name for one in problems if one["type"] == "literal_error" for name in _allowed_literals(one)]
    kinds = dict.fromkeys(EXPECTED_VALUES[one["type"]] for one in problems if one["type"] in EXPECTED_VALUES)
    value = problems[0]["input"]
    if known:
        return f"{_format_value(value)} is not known", _suggest_choice(str(value), known)
    if kinds:
        expected = " or ".join(kinds)
        return f"here should stand {expected}, not {_format_value(value)}", f"write {expected}"
    if problems[0]["type"] in ("too_short", "missing_argument"):
        return "at least one is needed, and there is none", "write one"
    message = str(problems[0]["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:], ""


def _suggest_choice(word: str, known: Sequence[str]) -> str:
    return f"one of: {', '.join(known)}" if len(known) <= MAX_NAMES else suggest_name(word, known)


def suggest_name(word: str, known: Sequence[str]) -> str:
    """What a misspelt name should have been, or what there is."""
    near = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {join_names(sorted(known))}"


def join_names(names: Iterable[object]) -> str:
    """Names in a line, the first ten of many, each cut where it is long."""
    found = [str(name) for name in names]
    shown = [name if len(name) <= MAX_NAME_LENGTH else f"{name[:MAX_NAME_LENGTH]}…" for name in found[:MAX_NAMES]]
    return ", ".join(shown) + (f" … and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else "")


def _allowed_literals(problem: Mapping[str, Any]) -> list[str]:
    """What pydantic says is allowed: `'auto', 'cpu' or 'cuda'`."""
    return [name.strip("'") for name in re.split(r", | or ", problem["ctx"]["expected"])]


def _format_value(value: Any) -> str:
    """A value as it stands in a recipe, cut where it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "keys with values"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
