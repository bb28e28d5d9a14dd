"""Questions with an answer, or several, of which the first is learned."""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.conversation import Message
from bottega.records.field_names import ANSWER_FIELDS, CONVERSATION_FIELDS, QUESTION_FIELDS
from bottega.records.fields import Fields, optional_string, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import add_context, first_answer, number_as_text, parse_template_inputs
from bottega.records.messages import user_messages
from bottega.records.prompts import Chat
from bottega.records.record import Record


class QuestionFormat(Format):
    record: ClassVar[type[Record]] = Chat
    required: ClassVar[RequiredFields] = (QUESTION_FIELDS, ANSWER_FIELDS)
    rank: ClassVar[int] = 30

    def accepts(self, fields: Fields) -> bool:
        # Beside a `prompt`, a question is usually a part of it, unless its answer is there too.
        return "prompt" not in fields or any(name in fields for name in ("answer", "answers", "solution"))

    def reads_extra(self, name: str) -> bool:
        return name in CONVERSATION_FIELDS or name == "context"

    def build(self, where: str, fields: Fields) -> Record:
        answer = first_answer(fields["answer"])
        if answer is None or answer == []:
            fix = "write the answer, or leave such rows out with data.bad_rows=drop"
            raise DataError("no answer", where=f"{where}, field answer", fix=fix)
        message = Message("assistant", require_string(where, {"answer": number_as_text(answer)}, "answer"))
        prompt = user_messages(optional_string(where, fields, "context"), require_string(where, fields, "question"))
        return Chat(where, (*add_context(where, fields, prompt), message), *parse_template_inputs(where, fields))
