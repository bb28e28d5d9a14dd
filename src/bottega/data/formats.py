"""Fields → records: which shape of row a file holds, and whether each row is sound.

A format is a name, the fields it needs and a function. With `format: auto` the first format is taken that the
objective can read and whose fields the file's first row has.
"""

from __future__ import annotations

import difflib
import math
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bottega.data.sources import Fields
from bottega.errors import DataError, RecipeError
from bottega.records import Chat, Labelled, Message, Preference, Prompt, Prompted, Record, Text

ROLES = ("system", "developer", "user", "assistant", "tool")


MOST_WEIGHT = 1e6
"""A larger weight of a message is a slip, and overflows."""

KINDS = {dict: "an object", list: "a list", bool: "a boolean", type(None): "empty"}


class Format(NamedTuple):
    """How rows become records: the type, the fields each row must have, who says so, and the function."""

    record: type
    needs: tuple[str, ...]
    build: Callable[[str, Fields], Record]
    named: str = "the format of the first row"


def records(
    rows: Iterable[tuple[str, Fields]],
    reads: tuple[type, ...],
    *,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    text_template: str | None = None,
    on_bad: Callable[[DataError], None] | None = None,
) -> Iterator[Record]:
    """Every sound row as a record of one of the types in `reads`.

    mapping        our field name → the file's
    text_template  builds the text of each row from its fields: `"Q: {question}\\nA: {answer}"`
    on_bad         called with the error of an unsound row, which is then left out; by default it is raised
    """
    if text_template is not None and Text not in reads:
        raise RecipeError("this objective reads no plain text", where="data.text_template", fix="leave it out")
    chosen = _templated(text_template) if text_template is not None else None
    for where, fields in rows:
        try:
            fields = _renamed(where, fields, mapping or {})
            chosen = chosen or _detect(where, fields, reads, format)
            for field in chosen.needs:
                if field not in fields:
                    raise _missing(where, field, fields, chosen.named)
            yield chosen.build(where, fields)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _renamed(where: str, fields: Fields, mapping: Mapping[str, str]) -> Fields:
    for theirs in mapping.values():
        if theirs not in fields:
            raise _missing(where, theirs, fields, "data.mapping")
    moved = set(mapping.values())
    kept = {name: value for name, value in fields.items() if name not in moved}
    return kept | {ours: fields[theirs] for ours, theirs in mapping.items()}


def _detect(where: str, fields: Fields, reads: tuple[type, ...], name: str) -> Format:
    if name != "auto":
        chosen = FORMATS[name]
        if chosen.record not in reads:
            able = [other for other, format in FORMATS.items() if format.record in reads]
            raise RecipeError(
                f"this objective does not read {name} rows", where="data.format", fix=f"one of: {', '.join(able)}"
            )
        return chosen._replace(named=f"format {name}")
    able_formats = sorted(
        (format for format in FORMATS.values() if format.record in reads), key=lambda f: reads.index(f.record)
    )
    for format in able_formats:
        if all(field in fields for field in format.needs):
            return format
    raise DataError(
        f"fields {', '.join(fields) or 'none'}: no format this objective reads",
        where=where,
        fix="it reads " + " or ".join(" + ".join(f.needs) for f in able_formats) + "; rename with data.mapping",
    )


def _missing(where: str, field: str, fields: Fields, wanted_by: str) -> DataError:
    near = difflib.get_close_matches(field, fields, 1)
    hint = f"did you mean {near[0]}?" if near else f"the row has {', '.join(fields) or 'no fields'}"
    return DataError(f"no field {field}, which {wanted_by} names", where=f"{where}, field {field}", fix=hint)


def _templated(template: str) -> Format:
    """The format of rows whose text is built from a template; the last field and what follows it are the answer."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _not_a_template(str(error)) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names:
        raise _not_a_template("it names no field")
    if "" in names or any(spec or conversion for _, _, spec, conversion in parts):
        raise _not_a_template("a field is written {name}, without ! or :")

    def build(where: str, fields: Fields) -> Record:
        text, answer = "", 0
        for literal, name, _, _ in parts:
            text += literal
            if name is not None:
                answer, value = len(text), _string(where, fields, name, empty=name != names[-1])
                text += value
        return Text(where, text, answer)

    return Format(Text, tuple(names), build, "data.text_template")


def _not_a_template(problem: str) -> RecipeError:
    return RecipeError(
        f"not a template: {problem}",
        where="data.text_template",
        fix='for example "Q: {question}\\nA: {answer}"; a brace is written {{',
    )


def _string(where: str, fields: Fields, name: str, *, empty: bool = False) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"{name} is {KINDS.get(type(value), 'a number')}, not a string",
            where=f"{where}, field {name}",
            fix="write it as text",
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{name} holds half a character", where=f"{where}, field {name}", fix="write it as Unicode")
    if not empty and not value.strip():
        raise DataError(f"empty {name}", where=f"{where}, field {name}", fix="fill in or remove the row")
    return value


def _text(where: str, fields: Fields) -> Record:
    return Text(where, _string(where, fields, "text"))


def _prompted(where: str, fields: Fields) -> Record:
    return Prompted(where, _string(where, fields, "prompt", empty=True), _string(where, fields, "completion"))


def _instruction_messages(where: str, fields: Fields) -> tuple[Message, ...]:
    request = _string(where, fields, "instruction")
    more, system = (_optional(where, fields, name) for name in ("input", "system"))
    user = Message("user", f"{request}\n\n{more}" if more else request)
    return (Message("system", system), user) if system else (user,)


def _optional(where: str, fields: Fields, name: str) -> str:
    """The field, or nothing where it is absent, null or blank."""
    value = _string(where, fields, name, empty=True) if fields.get(name) is not None else ""
    return value if value.strip() else ""


def _instruction(where: str, fields: Fields) -> Record:
    answer = Message("assistant", _string(where, fields, "output"))
    return Chat(where, (*_instruction_messages(where, fields), answer))


def _messages(where: str, fields: Fields, name: str = "messages") -> tuple[Message, ...]:
    turns = fields[name]
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{name} is not a list of messages",
            where=f"{where}, field {name}",
            fix='write [{"role": "user", "content": "…"}, …]',
        )
    return tuple(_message(f"{where}, field {name}[{index}]", turn) for index, turn in enumerate(turns))


def _message(where: str, turn: Any) -> Message:
    if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
        raise DataError("a message without role or content", where=where, fix='write {"role": …, "content": …}')
    if turn["role"] not in ROLES:
        raise DataError(f"unknown role {turn['role']!r}", where=where, fix=f"one of: {', '.join(ROLES)}")
    content = _string(where, turn, "content", empty=turn["role"] != "assistant")
    weight = turn.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= MOST_WEIGHT:
        raise DataError(f"weight {weight!r}", where=where, fix="a number from 0 (no loss) up; 1 is the usual")
    return Message(turn["role"], content, float(weight))


def _chat(where: str, fields: Fields) -> Record:
    messages = _messages(where, fields)
    if not any(message.role == "assistant" for message in messages):
        raise DataError(
            "no assistant message, so nothing to learn", where=f"{where}, field messages", fix="add the answer"
        )
    return Chat(where, messages)


def _preference(where: str, fields: Fields) -> Record:
    prompt, chosen, rejected = _preference_parts(where, fields)
    if chosen == rejected:
        raise DataError(
            "chosen equal to rejected",
            where=f"{where}, field rejected",
            fix="remove the row, or leave such rows out with data.bad_rows=drop",
        )
    return Preference(where, prompt, chosen, rejected)


def _preference_parts(where: str, fields: Fields) -> tuple[Prompt, str, str]:
    if isinstance(fields["chosen"], list):
        chosen, rejected = _messages(where, fields, "chosen"), _messages(where, fields, "rejected")
        prompt = _prompt_messages(where, fields)
        prompt = () if prompt == chosen[: len(prompt)] else prompt
        if chosen[:-1] != rejected[:-1] or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
            raise DataError(
                "chosen and rejected differ before their last message",
                where=f"{where}, field chosen",
                fix="both must be the same conversation up to one last assistant message",
            )
        return (*prompt, *chosen[:-1]), chosen[-1].content, rejected[-1].content
    answers = _string(where, fields, "chosen"), _string(where, fields, "rejected")
    if "prompt" in fields and isinstance(fields["prompt"], list):
        return _messages(where, fields, "prompt"), *answers
    if "prompt" in fields:
        return _string(where, fields, "prompt"), *answers
    if "instruction" in fields:
        return _instruction_messages(where, fields), *answers
    raise _missing(where, "prompt", fields, "a preference")


def _prompt_messages(where: str, fields: Fields) -> tuple[Message, ...]:
    """What stands before messages of the answers: a list of messages, a user's text, or nothing."""
    if isinstance(fields.get("prompt"), str):
        return (Message("user", _string(where, fields, "prompt")),)
    return _messages(where, fields, "prompt") if fields.get("prompt") is not None else ()


def _labelled(where: str, fields: Fields) -> Record:
    label = fields["label"]
    if isinstance(label, (int, float)) and not isinstance(label, bool) and math.isfinite(label):
        label = str(label)
    return Labelled(where, _string(where, fields, "text"), _string(where, {"label": label}, "label"))


FORMATS: dict[str, Format] = {
    "messages": Format(Chat, ("messages",), _chat),
    "instruction": Format(Chat, ("instruction", "output"), _instruction),
    "prompted": Format(Prompted, ("prompt", "completion"), _prompted),
    "preference": Format(Preference, ("chosen", "rejected"), _preference),
    "labelled": Format(Labelled, ("text", "label"), _labelled),
    "text": Format(Text, ("text",), _text),
}
