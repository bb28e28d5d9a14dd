"""A row format is one file, and so is one with a class of records of its own: no other change is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.errors import RecipeError
from bottega.records import Chat, Message, formats
from bottega.records.parser import parse_rows
from making import page_file, write_jsonl

CHAT_FORMAT = page_file("src/bottega/records/formats/ask_reply.py")

# Rows `{"riddle": …, "solved": …}` as records of a class of their own.
RECORD_FORMAT = """
from dataclasses import dataclass
from typing import ClassVar

from bottega.records import Chat, ChatLike, Message, RecordParts
from bottega.records.fields import require_string
from bottega.records.formats import Format


@dataclass(frozen=True, slots=True)
class Riddle(ChatLike):
    riddle: str
    solved: str

    @property
    def prompt_key(self):
        return self.riddle

    def parts(self):
        return RecordParts(self.riddle, self.solved, self.riddle, (self.riddle, self.solved))

    def as_chat(self):
        return Chat(self.where, (Message("user", self.riddle), Message("assistant", self.solved)))


class RiddleFormat(Format):
    record: ClassVar = Riddle
    required: ClassVar = (("riddle",), ("solved",))

    def build(self, where, fields):
        return Riddle(where, require_string(where, fields, "riddle"), require_string(where, fields, "solved"))
"""

# A user's objective that reads these records only, and learns the solution backwards.
OBJECTIVE = """
from typing import ClassVar

from bottega.objectives.sft import Sft
from bottega.records import Chat, Message
from bottega.records.formats.riddle import Riddle


class Backwards(Sft):
    reads: ClassVar = (Riddle,)

    def rows(self, record, codec):
        answer = Message("assistant", record.solved[::-1])
        return super().rows(Chat(record.where, (Message("user", record.riddle), answer)), codec)
"""

WORDS = ("cat", "dog", "tree", "mat")
ASK_REPLY_ROWS = [{"ask": f"the {word}", "reply": "sat on the mat"} for word in WORDS]
RIDDLE_ROWS = [{"riddle": f"the {word}", "solved": "sat on the mat"} for word in WORDS]


@pytest.fixture
def plugged(plug_in: Callable[..., None]) -> None:
    """Both formats."""
    plug_in(formats, "ask_reply", CHAT_FORMAT)
    plug_in(formats, "riddle", RECORD_FORMAT)


def recipe(model: Path, data: dict[str, Any], objective: dict[str, Any]) -> bottega.Recipe:
    return bottega.Recipe.parse(
        {
            "model": {"base": str(model), "dtype": "float32"},
            "objective": objective,
            "data": data,
            "optim": {"steps": 6, "examples": 4, "lr": 1e-2},
            "save": None,
        }
    )


def train(recipe: bottega.Recipe, out: Path) -> tuple[list[float], str]:
    """(loss of each update, notes of the run)."""
    events = list(bottega.train(recipe, out=out))
    notes = "\n".join(event.message for event in events if event.type == "noted")
    return [event.loss for event in events if event.type == "stepped"], notes


@pytest.mark.usefixtures("plugged")
def test_rows_of_a_new_format_are_detected_trained_on_previewed_and_audited(llama: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ASK_REPLY_ROWS)
    detected = recipe(llama, {"train": str(path)}, {"kind": "sft"})
    configured = recipe(llama, {"train": str(path), "format": "ask_reply"}, {"kind": "sft"})
    losses, notes = train(detected, tmp_path / "detected")
    assert losses[-1] < losses[0]
    assert "fields ask, reply; read as ask_reply" in notes
    assert train(configured, tmp_path / "configured")[0] == losses
    (row,) = bottega.preview(detected).examples[0][1]
    assert "sat on the mat" in "".join(piece.text for piece in row if piece.weight)
    assert bottega.audit([str(path)]).rows == len(WORDS)


@pytest.mark.usefixtures("plugged")
def test_a_new_format_is_known_by_its_name() -> None:
    rows = [("file line 1", {"ask": "the cat", "replies": "sat"})]
    expected = Chat("file line 1", (Message("user", "the cat"), Message("assistant", "sat")))
    assert list(parse_rows(rows, (Chat,))) == [expected]
    with pytest.raises(RecipeError) as caught:
        bottega.Recipe.parse(
            {"model": {"base": "m"}, "objective": {"kind": "sft"}, "data": {"train": "a.jsonl", "format": "ask_repyl"}}
        )
    assert caught.value.fix == "did you mean ask_reply?"


@pytest.mark.usefixtures("plugged")
def test_a_class_of_records_of_its_own_is_trained_on_and_audited(llama: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*RIDDLE_ROWS, {**RIDDLE_ROWS[0], "solved": "ran"}])
    data: dict[str, Any] = {"train": {"path": str(path), "split": "train[:4]"}}
    file = tmp_path / "backwards.py"
    file.write_text(OBJECTIVE, encoding="utf-8")
    own, notes = train(recipe(llama, data, {"kind": "custom", "file": str(file)}), tmp_path / "own")
    assert own[-1] < own[0]
    assert "read as riddle" in notes
    # `sft` learns any record that can be written as a conversation.
    known, _ = train(recipe(llama, data, {"kind": "sft"}), tmp_path / "sft")
    assert known[-1] < known[0]
    assert known[0] != own[0]
    audit = bottega.audit([str(path)], model=str(llama))
    assert audit.rows == len(RIDDLE_ROWS) + 1
    assert "contradiction" in {finding.kind for finding in audit.findings}
