"""Prompts to generate answers for, with a reference answer if there is one; of a conversation that is its end."""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.field_names import MESSAGE_FIELDS, QUESTION_FIELDS, REFERENCE_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import first_answer, number_as_text, parse_prompt, parse_template_inputs
from bottega.records.prompts import Posed
from bottega.records.record import Record


class PosedFormat(Format):
    record: ClassVar[type[Record]] = Posed
    required: ClassVar[RequiredFields] = (("prompt", *QUESTION_FIELDS, "instruction", *MESSAGE_FIELDS),)
    rank: ClassVar[int] = 180

    def accepts(self, fields: Fields) -> bool:
        # An object in `input` is the prompt of OpenAI's preference rows.
        return not isinstance(fields.get("input"), dict)

    def reads_extra(self, name: str) -> bool:
        return True  # rewards may read any field of the row

    def build(self, where: str, fields: Fields) -> Record:
        prompt, reference = parse_prompt(where, fields), _parse_reference(where, fields)
        if not isinstance(prompt, str):
            if prompt[-1].role == "assistant":
                prompt, reference = prompt[:-1], reference or prompt[-1].content
            if not any(message.role == "user" for message in prompt):
                raise DataError("no user message", where=f"{where}, field prompt", fix="add a message of the user")
        tools, variables = parse_template_inputs(where, fields)
        return Posed(where, prompt, reference, tools, fields, variables)


def _parse_reference(where: str, fields: Fields) -> str:
    """The reference answer of a row, empty if it has none; verl's rows keep it in `reward_model`."""
    verl = fields.get("reward_model")
    fields = {**verl, **fields} if isinstance(verl, dict) else fields
    name = next((name for name in REFERENCE_FIELDS if fields.get(name) not in (None, "")), None)
    return require_string(where, {name: number_as_text(first_answer(fields[name]))}, name) if name else ""
