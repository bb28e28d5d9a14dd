"""Records: the parsed rows of data, one class for each kind of task, independent of the file format.

A row format is one file in `records/formats/`, found by its name: it names the fields of a row and builds the record.
`parser` reads rows of any format, `detection` recognizes the format of a row. The classes stand in `prompts` and
`labels`; a format may also bring a class of its own.
"""

from __future__ import annotations

from bottega.errors import Unusable
from bottega.records.conversation import SYSTEM_ROLES, Answer, Message, Prompt, Tools, Variables, answered, full_answer
from bottega.records.labels import (
    Compared,
    Entity,
    Labelled,
    Multilabelled,
    Paired,
    Tagged,
    label_name,
)
from bottega.records.prompts import Chat, Choice, Posed, Preference, Prompted, Text, Unpaired
from bottega.records.record import MAX_SHOWN, ChatLike, Record, RecordParts, TooLong

__all__ = [
    "MAX_SHOWN",
    "SYSTEM_ROLES",
    "Answer",
    "Chat",
    "ChatLike",
    "Choice",
    "Compared",
    "Entity",
    "Labelled",
    "Message",
    "Multilabelled",
    "Paired",
    "Posed",
    "Preference",
    "Prompt",
    "Prompted",
    "Record",
    "RecordParts",
    "Tagged",
    "Text",
    "TooLong",
    "Tools",
    "Unpaired",
    "Unusable",
    "Variables",
    "answered",
    "full_answer",
    "label_name",
]
