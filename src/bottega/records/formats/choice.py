"""Multiple-choice questions with a list of choices, and the correct one by index, letter or text."""

from __future__ import annotations

from typing import Any, ClassVar

from bottega.errors import DataError
from bottega.records.field_names import CHOICE_FIELDS, CORRECT_CHOICE_FIELDS
from bottega.records.fields import Fields, parse_integer, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import number_as_text
from bottega.records.prompts import Choice
from bottega.records.record import Record


class ChoiceFormat(Format):
    record: ClassVar[type[Record]] = Choice
    required: ClassVar[RequiredFields] = (("question", "query"), CHOICE_FIELDS, CORRECT_CHOICE_FIELDS)
    rank: ClassVar[int] = 160

    def build(self, where: str, fields: Fields) -> Record:
        (choices, names), gold = _split_choices(fields["choices"]), fields["gold"]
        if not isinstance(choices, list) or len(choices) < 2:
            raise DataError("fewer than two choices", where=f"{where}, field choices", fix='write ["…", "…"]')
        texts = tuple(require_string(where, {"choices": number_as_text(choice)}, "choices") for choice in choices)
        index = _gold_index(gold, texts, names)
        if not 0 <= index < len(texts):
            raise DataError(
                f"{gold!r} is none of the {len(texts)} choices",
                where=f"{where}, field gold",
                fix="the index of the correct choice, from 0; its letter; or its text",
            )
        return Choice(where, require_string(where, fields, "question"), texts, index)


def _split_choices(choices: Any) -> tuple[Any, Any]:
    """(texts, their names) of a list of texts or objects, of ARC's {text, label}, or of texts by their letters."""
    if isinstance(choices, list) and choices and all(isinstance(item, dict) and "text" in item for item in choices):
        return [item["text"] for item in choices], [item.get("label") for item in choices]
    if isinstance(choices, dict) and "text" not in choices:
        return list(choices.values()), list(choices)
    return (choices.get("text"), choices.get("label")) if isinstance(choices, dict) else (choices, None)


def _gold_index(gold: Any, texts: tuple[str, ...], names: Any) -> int:
    """The index of the correct choice, given as an index, name, letter or text; -1 if it is none of them."""
    number = parse_integer(gold)
    if number is not None:
        return number
    # The row's own names come first: ARC calls some of its choices 1 to 4.
    namings: list[list[Any]] = [names if isinstance(names, list) else []]
    namings += [[chr(65 + n) for n in range(len(texts))], list(texts), [str(n) for n in range(len(texts))]]
    return next((naming.index(gold) for naming in namings if gold in naming), -1)
