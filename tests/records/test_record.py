"""What a class of records of its own need not define."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass

import pytest

from bottega.records import Chat, ChatLike, Message, Record, RecordParts
from bottega.records.formats import record_types


@dataclass(frozen=True, slots=True)
class Riddle(ChatLike):
    riddle: str
    solved: str

    @property
    def prompt_key(self) -> str:
        return self.riddle

    def parts(self) -> RecordParts:
        return RecordParts(self.riddle, self.solved, self.riddle, (self.riddle, self.solved))

    def as_chat(self) -> Chat:
        return Chat(self.where, (Message("user", self.riddle), Message("assistant", self.solved)))


def test_defaults_of_a_record() -> None:
    record = Riddle("rows line 1", "q", "a")
    assert record.input_texts == ("q", "a")
    assert (list(record.label_names), list(record.texts_to_encode())) == ([], [])
    assert not record.has_right_answer
    assert record.priority < min(known.priority for known in record_types()), "it is read before the built-in ones"


def test_a_record_is_a_value() -> None:
    record = Riddle("rows line 1", "q", "a")
    assert record == Riddle("rows line 1", "q", "a") != Riddle("rows line 2", "q", "a")
    with pytest.raises(FrozenInstanceError):
        record.solved = "b"  # type: ignore[misc]


def test_a_record_must_define_its_key_and_parts() -> None:
    with pytest.raises(TypeError, match="parts"):
        Record("rows line 1")  # type: ignore[abstract]
