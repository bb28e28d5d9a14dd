"""The rows of a training file, checked as the hosted API checks them, in its own words where they are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bottega.server.jobs.methods import METHODS, TrainingMethod

# Fewer rows are refused.
MIN_EXAMPLES = 10

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

# Early and present names of the fields of a pair.
PREFERRED = ("preferred_output", "preferred_completion")
OTHER = ("non_preferred_output", "non_preferred_completion")


class InvalidFile(Exception):
    """A file that cannot be trained on: `code`, `message` and `param` as a failed job shows them."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param

    @property
    def document(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "param": self.param}


def check_file(path: Path, method: str, param: str, file_id: str, *, min_examples: int = MIN_EXAMPLES) -> int:
    """The number of rows of a file; raises InvalidFile for the first that cannot be trained on."""
    count = 0
    for number, row in _rows(path, param):
        found = _method_of(row)
        if found is not None and found.format != METHODS[method].format:
            what = (
                f"Input file {file_id} is in the {found.format} format, but the specified fine-tuning job is not using"
                f" '{found.name}' as the training method (provided method={method})."
            )
            raise _invalid(what, param)
        try:
            _check_row(row, METHODS[method])
        except ValueError as error:
            raise _invalid(f"Invalid file format. Example {number}{error}", param) from None
        count += 1
    if count < min_examples:
        what = f"Training file has {count} example(s), but must have at least {min_examples} examples"
        raise InvalidFile("invalid_n_examples", what, param)
    return count


def _invalid(what: str, param: str) -> InvalidFile:
    name = param.replace("_", " ")
    return InvalidFile(f"invalid_{param}", f"The job failed due to an invalid {name}. {what}", param)


def _rows(path: Path, param: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, row), from 1 on; empty lines are no rows."""
    number = 0
    with path.open("rb") as file:
        for place, line in enumerate(file, 1):
            data = line.removeprefix(b"\xef\xbb\xbf") if place == 1 else line
            if not data.strip():
                continue
            number += 1
            try:
                row = json.loads(data.decode())
            except UnicodeDecodeError:
                raise _invalid(f"Invalid file format. Line {place} is not UTF-8.", param) from None
            except (ValueError, RecursionError) as error:
                raise _invalid(f"Invalid file format. Line {place} is not valid JSON: {error}", param) from None
            if not isinstance(row, dict):
                raise _invalid(f"Invalid file format. Line {place} is not a JSON object.", param)
            yield number, row


def _method_of(row: Mapping[str, Any]) -> TrainingMethod | None:
    """The method that trains on rows of this format; None if none does."""
    is_pair = "input" in row and any(name in row for name in PREFERRED)
    if not is_pair and "messages" not in row and not ("prompt" in row and "completion" in row):
        return None
    return next(method for method in METHODS.values() if (method.rows == "pairs") == is_pair)


def _check_row(row: Mapping[str, Any], method: TrainingMethod) -> None:
    """Raise a ValueError that says where in the row and what is wrong."""
    if method.rows == "pairs":
        _check_pair(row)
    elif method.rows == "prompts":
        _check_messages(row.get("messages"), trained=False)
        if row["messages"][-1]["role"] != "user":
            raise ValueError(", the last message must be of the user")
    elif "messages" in row:
        _check_messages(row["messages"], trained=True)
    elif not all(isinstance(row.get(name), str) for name in ("prompt", "completion")):
        raise ValueError(", 'messages' is a required property")


def _check_pair(row: Mapping[str, Any]) -> None:
    prompt = row.get("input")
    if not isinstance(prompt, dict) or "messages" not in prompt:
        raise ValueError(", input: 'messages' is a required property")
    _check_messages(prompt["messages"], trained=False)
    for names in (PREFERRED, OTHER):
        output = next((row[name] for name in names if name in row), None)
        if not isinstance(output, list) or len(output) != 1:
            raise ValueError(f", {names[0]} must be a list of one assistant message")
        _check_message(output[0], f", {names[0]}")
        if output[0]["role"] != "assistant" or not output[0].get("content"):
            raise ValueError(f", {names[0]} must be an assistant message with content")


def _check_messages(messages: Any, *, trained: bool) -> None:
    if not isinstance(messages, list) or not messages:
        raise ValueError(", 'messages' must be a list with at least one message")
    for number, message in enumerate(messages, 1):
        _check_message(message, f", message {number}")
    answers = [message for message in messages if message["role"] == "assistant"]
    if trained and not answers:
        raise ValueError(", there is no assistant message to learn from")
    if trained and all(message.get("weight") == 0 for message in answers):
        raise ValueError(", all assistant messages have weight 0: there is nothing to learn from")


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise ValueError(f"{where} is not an object")
    if "role" not in message:
        raise ValueError(f"{where} Discriminator 'role' is missing in value")
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ValueError(f"{where} Input tag {role!r} found using 'role' does not match any of the expected tags")
    if "weight" in message and (role != "assistant" or message["weight"] not in (0, 1)):
        raise ValueError(f"{where} 'weight' must be 0 or 1, and only on assistant messages")
    calls = message.get("tool_calls") or message.get("function_call")
    if role == "assistant" and not content and not calls:
        raise ValueError(f"{where} must have content or tool_calls")
    if content is not None and not isinstance(content, str | list):
        raise ValueError(f"{where} content must be a string")
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"{where} content may only have parts of type text")
    if content is None and role not in ("assistant",):
        raise ValueError(f"{where} 'content' is a required property")
