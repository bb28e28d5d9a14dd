"""Instructions with an input and an output, as in Alpaca (Taori et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from bottega.records.conversation import Message
from bottega.records.field_names import CONTEXT_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import add_context, parse_instruction, parse_template_inputs
from bottega.records.prompts import Chat
from bottega.records.record import Record


class InstructionFormat(Format):
    record: ClassVar[type[Record]] = Chat
    required: ClassVar[RequiredFields] = (("instruction",), ("output", "response", "completion", "answer"))
    rank: ClassVar[int] = 20

    def reads_extra(self, name: str) -> bool:
        return name in CONTEXT_FIELDS

    def build(self, where: str, fields: Fields) -> Record:
        prompt = add_context(where, fields, parse_instruction(where, fields))
        answer = Message("assistant", require_string(where, fields, "output"))
        return Chat(where, (*prompt, answer), *parse_template_inputs(where, fields))
