"""The same input with different answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.checks.duplicates import hash_text
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity
from bottega.records import Preference, Unpaired, full_answer


class Contradictions(Check):
    """Rows that give another answer than the first row with the same input.

    Of preferences and rated answers the input is prompt and answer together, and the answer is whether it is good.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # One element per claim; a preference makes two.
        self.rows, self.inputs, self.answers = array("q"), array("Q"), array("Q")
        self.single_answer = False

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            # A question answered in free text may have several good answers.
            self.single_answer = self.single_answer or entry.record.has_right_answer
            for prompt, answer in _claims(entry):
                self.rows.append(entry.row)
                self.inputs.append(hash_text(" ".join(prompt.split())))
                self.answers.append(hash_text(" ".join(answer.split())))

    def findings(self) -> Iterator[Finding]:
        if not len(self.rows):
            return
        inputs, answers = np.array(self.inputs, np.uint64), np.array(self.answers, np.uint64)  # [claims]
        # A stable sort keeps the order of the file within each input, so that the first row is the reference.
        order = np.argsort(inputs, kind="stable")
        starts = np.r_[True, inputs[order][1:] != inputs[order][:-1]]
        first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]  # [claims], as `order`
        differs = answers[order] != answers[first]
        rows, beside = np.array(self.rows)[order[differs]], np.array(self.rows)[first[differs]]
        in_order = np.argsort(rows, kind="stable")
        # A preference whose two answers are equal contradicts itself; the check `preferences` reports that.
        in_order = in_order[rows[in_order] != beside[in_order]]
        if len(in_order):
            if self.single_answer:
                what, fix = "the same input with a different answer", "decide which is right, and remove the others"
            else:
                what = "the same input with a different answer, which may be equally good"
                fix = "look at them: are both answers right?"
            severity: Severity = "error" if self.single_answer else "note"
            yield self.context.finding("contradiction", severity, what, fix, rows[in_order], beside=beside[in_order])


def _claims(entry: Entry) -> Iterator[tuple[str, str]]:
    """The (input, answer) pairs that a row teaches; none for text without an input."""
    if isinstance(entry.record, Preference):
        for rating, answer in zip("yn", (entry.record.chosen, entry.record.rejected), strict=True):
            yield f"{entry.prompt}\0{full_answer(answer)}", rating
    elif isinstance(entry.record, Unpaired):
        yield f"{entry.prompt}\0{full_answer(entry.record.completion)}", str(entry.record.desirable)
    elif entry.prompt.strip():
        yield entry.prompt, entry.answer
