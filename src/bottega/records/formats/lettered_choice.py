"""Multiple-choice questions whose choices are fields of their own, such as MMLU's A to D."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from bottega.errors import DataError
from bottega.records.field_names import CONVERSATION_FIELDS, CORRECT_CHOICE_FIELDS
from bottega.records.fields import Fields, optional_string, parse_integer, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats.choice import ChoiceFormat
from bottega.records.messages import user_messages
from bottega.records.prompts import Choice
from bottega.records.record import Record

# Names of the fields of choices.
LETTER_FIELD = re.compile("(?:[Oo]ption[_ ])?([A-Ja-j])")
# A letter as an answer: `B`, `(b)`, `option_b`, `B.`
LETTER_ANSWER = re.compile(r"\(?(?:[Oo]ption[_ ])?([A-Ja-j])\)?[.:]?")


class LetteredChoiceFormat(Format):
    record: ClassVar[type[Record]] = Choice
    required: ClassVar[RequiredFields] = (
        ("question", "query"),
        ("A", "a", "option_a", "option_A", "option a", "Option A"),
        ("B", "b", "option_b", "option_B", "option b", "Option B"),
        CORRECT_CHOICE_FIELDS,
    )
    rank: ClassVar[int] = 170

    def accepts(self, fields: Fields) -> bool:
        gold = next((fields[name] for name in CORRECT_CHOICE_FIELDS if name in fields), None)
        is_conversation = any(name in fields for name in CONVERSATION_FIELDS)
        return _gold_letter(_lettered_choices(fields), gold) != "" and not is_conversation

    def reads_extra(self, name: str) -> bool:
        return name == "context" or LETTER_FIELD.fullmatch(name) is not None

    def build(self, where: str, fields: Fields) -> Record:
        choices = _lettered_choices(fields)
        texts = {letter: text for letter, text in choices.items() if text is not None and text != ""}
        correct = _gold_letter(choices, fields["gold"])
        if correct not in texts:
            raise DataError(
                f"{fields['gold']!r} is none of the choices {', '.join(texts)}",
                where=f"{where}, field gold",
                fix="the letter of the correct choice; its index, from 0; or its text",
            )
        context = optional_string(where, fields, "context")
        (question,) = user_messages(context, require_string(where, fields, "question"))
        row = {"question": question.content, "choices": list(texts.values()), "gold": list(texts).index(correct)}
        return ChoiceFormat().build(where, row)


def _lettered_choices(fields: Fields) -> dict[str, Any]:
    """The choices of a row by their capital letters, in order."""
    choices = {match[1].upper(): fields[name] for name in fields if (match := LETTER_FIELD.fullmatch(name))}
    return {letter: choices[letter] for letter in sorted(choices)}


def _gold_letter(choices: dict[str, Any], gold: Any) -> str:
    """The letter of the correct choice, given as a letter, an index from 0, or a text; "" if it is none of them."""
    index = parse_integer(gold)
    if index is None and isinstance(gold, str):
        match = LETTER_ANSWER.fullmatch(gold.strip())
        if match and match[1].upper() in choices:
            return match[1].upper()
        # A digit as text is an index, unless it is the text of a choice.
        index = int(gold) if gold in map(str, range(len(choices))) and gold not in choices.values() else None
    if index is not None:
        return list(choices)[index] if 0 <= index < len(choices) else ""
    return next((letter for letter, text in choices.items() if gold is not None and text == gold), "")
