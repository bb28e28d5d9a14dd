"""Documents with a summary; of several summaries the first is learned, and a list of sentences is joined."""

from __future__ import annotations

from typing import ClassVar

from bottega.records.conversation import Message
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.messages import user_messages
from bottega.records.prompts import Chat
from bottega.records.record import Record


class SummaryFormat(Format):
    record: ClassVar[type[Record]] = Chat
    required: ClassVar[RequiredFields] = (
        ("source", "document", "article", "dialogue"),
        ("summary", "target", "highlights"),
    )
    # Not `target` here: beside `text` it is usually a label.
    alternative: ClassVar[RequiredFields] = (("source", "text"), ("summary", "highlights"))
    rank: ClassVar[int] = 40

    def build(self, where: str, fields: Fields) -> Record:
        source, target = fields["source"], fields["summary"]
        texts = {
            "source": " ".join(map(str, source)) if isinstance(source, list) else source,
            "summary": target[0] if isinstance(target, list) and target else target,
        }
        summary = require_string(where, texts, "summary")
        # The wording is part of the training rows: changing it changes what a run learns.
        prompt = user_messages("Summarise:", require_string(where, texts, "source"))
        return Chat(where, (*prompt, Message("assistant", summary)))
