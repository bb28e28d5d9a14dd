"""OpenAI's preference rows: `input` holds messages and tools, each output one assistant message."""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.fields import Fields
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats.preference import PreferenceFormat
from bottega.records.prompts import Preference
from bottega.records.record import Record


class OpenaiPreferenceFormat(Format):
    record: ClassVar[type[Record]] = Preference
    required: ClassVar[RequiredFields] = (("input",), ("preferred_output",), ("non_preferred_output",))
    rank: ClassVar[int] = 70

    def reads_extra(self, name: str) -> bool:
        return name in ("tools", "functions")

    def build(self, where: str, fields: Fields) -> Record:
        prompt = fields["input"]
        if not isinstance(prompt, dict) or "messages" not in prompt:
            raise DataError("input has no messages", where=f"{where}, field input", fix='write {"messages": […]}')
        row = {"prompt": prompt["messages"], "chosen": fields["preferred_output"]}
        row |= {"rejected": fields["non_preferred_output"]}
        row |= {name: prompt.get(name, fields.get(name)) for name in ("tools", "functions")}
        return PreferenceFormat().build(where, row)
