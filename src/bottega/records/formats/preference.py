"""A prompt with a chosen and a rejected answer: texts, messages, or two whole transcripts."""

from __future__ import annotations

from itertools import takewhile
from os.path import commonprefix
from typing import ClassVar

from bottega.errors import DataError
from bottega.records.field_names import (
    CHOSEN_FIELDS,
    CONTEXT_FIELDS,
    MESSAGE_FIELDS,
    PROMPT_FIELDS,
    REJECTED_FIELDS,
)
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._prompts import (
    has_prompt,
    is_messages,
    join_transcript,
    messages_before_answers,
    parse_prompt,
    parse_template_inputs,
    simplify_answer,
    to_messages,
)
from bottega.records.prompts import Preference
from bottega.records.record import Record

# Start of an answer in a transcript written as one string (Bai et al. 2022, HH-RLHF).
ASSISTANT_MARK = "\n\nAssistant:"


class PreferenceFormat(Format):
    record: ClassVar[type[Record]] = Preference
    required: ClassVar[RequiredFields] = (CHOSEN_FIELDS, REJECTED_FIELDS)
    rank: ClassVar[int] = 60

    def reads_extra(self, name: str) -> bool:
        return name in CONTEXT_FIELDS or name in PROMPT_FIELDS or name in MESSAGE_FIELDS

    def build(self, where: str, fields: Fields) -> Record:
        record = _parse_pair(where, fields)
        if record.chosen == record.rejected:
            raise DataError(
                "chosen equal to rejected",
                where=f"{where}, field rejected",
                fix="remove the row, or leave such rows out with data.bad_rows=drop",
            )
        return record


def _parse_pair(where: str, fields: Fields) -> Preference:
    if is_messages(fields["chosen"]):
        return _parse_transcripts(where, fields)
    chosen, rejected = require_string(where, fields, "chosen"), require_string(where, fields, "rejected")
    if has_prompt(fields):
        prompt = parse_prompt(where, fields)
        return Preference(where, prompt, chosen, rejected, *parse_template_inputs(where, fields))
    start = _answer_start(commonprefix([chosen, rejected]))
    if not chosen[:start].strip() and chosen != rejected:
        raise DataError(
            "no field prompt, and the two answers share no beginning",
            where=f"{where}, field prompt",
            fix=f"name the prompt {', '.join(PROMPT_FIELDS)} or messages; or rename with data.mapping",
        )
    return Preference(where, chosen[:start], chosen[start:], rejected[start:])


def _answer_start(prefix: str) -> int:
    """Where the answers start in two transcripts with this common prefix: after the last turn mark, or word."""
    turn = prefix.rfind(ASSISTANT_MARK)
    return turn + len(ASSISTANT_MARK) if turn >= 0 else max(prefix.rfind(" "), prefix.rfind("\n")) + 1


def _parse_transcripts(where: str, fields: Fields) -> Preference:
    """Two conversations: the messages that they share are the prompt, after what the row holds beside both."""
    chosen, rejected = (to_messages(where, fields[name], name) for name in ("chosen", "rejected"))
    pairs = zip(chosen, rejected, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    # Two equal transcripts share their answers as well; the caller reports them as equal.
    shared = min(shared, len(chosen) - 1, len(rejected) - 1) if chosen == rejected else shared
    for name, answer in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if not answer or answer[0].role != "assistant":
            raise DataError(
                f"{name} differs from the other answer before an assistant message",
                where=f"{where}, field {name}",
                fix="both must be the same conversation up to an assistant message, which differs",
            )
    prompt = join_transcript(where, messages_before_answers(where, fields), chosen[:shared])
    answers = simplify_answer(chosen[shared:]), simplify_answer(rejected[shared:])
    return Preference(where, prompt, *answers, *parse_template_inputs(where, fields))
