"""Conversations: OpenAI's `messages`, or ShareGPT's `conversations`."""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.field_names import CONVERSATION_FIELDS, MESSAGE_FIELDS
from bottega.records.fields import Fields
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import add_context, parse_template_inputs
from bottega.records.formats.preference import PreferenceFormat
from bottega.records.messages import parse_messages
from bottega.records.prompts import Chat
from bottega.records.record import Record


class MessagesFormat(Format):
    record: ClassVar[type[Record]] = Chat
    required: ClassVar[RequiredFields] = (MESSAGE_FIELDS,)
    rank: ClassVar[int] = 10

    def accepts(self, fields: Fields) -> bool:
        # Beside a chosen and a rejected answer, messages are the prompt of these.
        return PreferenceFormat().match(fields) is None

    def reads_extra(self, name: str) -> bool:
        return name in CONVERSATION_FIELDS

    def build(self, where: str, fields: Fields) -> Record:
        messages = add_context(where, fields, parse_messages(where, fields))
        if not any(message.role == "assistant" for message in messages):
            raise DataError(
                "no assistant message, so nothing to learn", where=f"{where}, field messages", fix="add the answer"
            )
        return Chat(where, messages, *parse_template_inputs(where, fields))
