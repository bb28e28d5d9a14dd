"""Prompts with a completion: texts used verbatim, or a conversation of which only the completion is learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from bottega.errors import DataError
from bottega.records.conversation import Message
from bottega.records.field_names import COMPLETION_FIELDS, CONVERSATION_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import (
    Messages,
    add_context,
    is_messages,
    parse_template_inputs,
    to_messages,
)
from bottega.records.messages import user_messages
from bottega.records.prompts import Chat, Prompted
from bottega.records.record import Record


class PromptedFormat(Format):
    record: ClassVar[type[Record]] = Prompted
    required: ClassVar[RequiredFields] = (("prompt",), COMPLETION_FIELDS)
    rank: ClassVar[int] = 50

    def reads_extra(self, name: str) -> bool:
        return name in CONVERSATION_FIELDS

    def build(self, where: str, fields: Fields) -> Record:
        prompt, completion = fields["prompt"], fields["completion"]
        plain = not is_messages(prompt) and not is_messages(completion)
        if plain and not any(map(fields.get, CONVERSATION_FIELDS)):
            prompt = require_string(where, fields, "prompt", empty=True)
            return Prompted(where, prompt, require_string(where, fields, "completion"))
        answer = to_messages(where, completion, "completion") if is_messages(completion) else ()
        if answer and not any(message.role == "assistant" for message in answer):
            fix = "the answer is the assistant's"
            raise DataError("no assistant message", where=f"{where}, field completion", fix=fix)
        before = add_context(where, fields, _prompt_messages(where, prompt))
        # Only the completion is learned, not the answers inside the prompt.
        before = tuple(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in before)
        answer = answer or (Message("assistant", require_string(where, fields, "completion")),)
        return Chat(where, (*before, *answer), *parse_template_inputs(where, fields))


def _prompt_messages(where: str, prompt: Any) -> Messages:
    if is_messages(prompt):
        return to_messages(where, prompt, "prompt")
    return user_messages(require_string(where, {"prompt": prompt}, "prompt"))
