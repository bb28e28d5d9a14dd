"""Token rows that several objectives make of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.batch import Row
from bottega.records import Answer as AnswerContent
from bottega.records import Posed, Preference, Unpaired

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


def completion_row(record: Posed | Preference | Unpaired, completion: AnswerContent, codec: Codec) -> Row:
    """The row of a record's prompt and a completion, which carries the loss."""
    return codec.encode_completion(record.where, record.prompt, completion, record.tools, record.variables)
