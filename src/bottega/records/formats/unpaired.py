"""A prompt, an answer and whether it is desirable (KTO): texts, messages, or a whole conversation."""

from __future__ import annotations

from typing import Any, ClassVar

from bottega.errors import DataError
from bottega.records.field_names import (
    COMPLETION_FIELDS,
    CONTEXT_FIELDS,
    FLAG_FIELDS,
    MESSAGE_FIELDS,
    QUESTION_FIELDS,
)
from bottega.records.fields import Fields, parse_integer, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import (
    is_messages,
    join_transcript,
    messages_before_answers,
    messages_beside_transcript,
    parse_prompt,
    parse_template_inputs,
    simplify_answer,
    to_messages,
)
from bottega.records.prompts import Unpaired
from bottega.records.record import Record

FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class UnpairedFormat(Format):
    record: ClassVar[type[Record]] = Unpaired
    required: ClassVar[RequiredFields] = (("prompt", "instruction", *QUESTION_FIELDS), COMPLETION_FIELDS, FLAG_FIELDS)
    alternative: ClassVar[RequiredFields] = (MESSAGE_FIELDS, FLAG_FIELDS)
    rank: ClassVar[int] = 80
    value_hint: ClassVar[str] = "label must be true or false, 1 or 0"

    def accepts(self, fields: Fields) -> bool:
        name = next(name for name in FLAG_FIELDS if name in fields)
        # Question–answer rows often have a `label` that is a level or a subject, not a rating of the answer.
        is_rating = name != "label" or "completion" in fields or "response" in fields
        return self.tolerates(fields) and (is_rating or isinstance(fields[name], bool))

    def tolerates(self, fields: Fields) -> bool:
        return parse_flag(next(fields[name] for name in FLAG_FIELDS if name in fields)) is not None

    def reads_extra(self, name: str) -> bool:
        return name in CONTEXT_FIELDS

    def build(self, where: str, fields: Fields) -> Record:
        desirable = parse_flag(fields["label"])
        if desirable is None:
            raise DataError(
                f"label {fields['label']!r}",
                where=f"{where}, field label",
                fix="true or 1 for a good answer, false or 0",
            )
        answer = fields.get("completion", fields.get("messages"))
        if is_messages(answer):
            return _parse_transcript(where, fields, answer, desirable=desirable)
        prompt, completion = parse_prompt(where, fields), require_string(where, fields, "completion")
        return Unpaired(where, prompt, completion, desirable, *parse_template_inputs(where, fields))


def parse_flag(value: Any) -> bool | None:
    """True for a desirable answer, False for an undesirable one; None if the value is no such flag."""
    if isinstance(value, bool):
        return value
    return FLAGS.get(value.strip().lower() if isinstance(value, str) else str(parse_integer(value)))


def _parse_transcript(where: str, fields: Fields, transcript: Any, *, desirable: bool) -> Unpaired:
    """The record of a row whose answer is messages, the last of which (the assistant's and tools') are rated."""
    is_whole = "completion" not in fields
    name = "messages" if is_whole else "completion"
    messages = to_messages(where, transcript, name)
    others = [index for index, message in enumerate(messages) if message.role not in ("assistant", "tool")]
    start = others[-1] + 1 if others else 0
    answer = messages[start:]
    if not answer or answer[0].role != "assistant":
        raise DataError("no assistant message", where=f"{where}, field {name}", fix="the answer is the assistant's")
    before = messages_beside_transcript(where, fields) if is_whole else messages_before_answers(where, fields)
    prompt = join_transcript(where, before, messages[:start])
    return Unpaired(where, prompt, simplify_answer(answer), desirable, *parse_template_inputs(where, fields))
