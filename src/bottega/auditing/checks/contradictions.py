"""The same input with different answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.checks.duplicates import key
from bottega.auditing.entries import Entry, whole
from bottega.auditing.findings import Finding
from bottega.records import Choice, Labelled, Multilabelled, Preference, Tagged, Unpaired

JUDGED = (Labelled, Multilabelled, Tagged, Choice, Preference, Unpaired)
"""Rows whose answers are right or wrong; to a question in words there may be several good answers."""


class Contradictions(Check):
    """Rows that say one thing of an input where others say another.

    Of preferences and judged answers the input is prompt and answer, and what is said of it is good or bad.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows, self.asked, self.said = array("q"), array("Q"), array("Q")
        self.judged = False

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            self.judged = self.judged or isinstance(one.record, JUDGED)
            for asked, said in _claims(one):
                self.rows.append(one.number)
                self.asked.append(key(" ".join(asked.split())))
                self.said.append(key(" ".join(said.split())))

    def findings(self) -> Iterator[Finding]:
        if not len(self.rows):
            return
        asked, said = np.array(self.asked, np.uint64), np.array(self.said, np.uint64)
        # In the order of the file within each input: the first row is what the others are held against.
        order = np.argsort(asked, kind="stable")
        starts = np.r_[True, asked[order][1:] != asked[order][:-1]]
        first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        differs = said[order] != said[first]
        rows, beside = np.array(self.rows)[order[differs]], np.array(self.rows)[first[differs]]
        apart = np.argsort(rows, kind="stable")
        apart = apart[rows[apart] != beside[apart]]
        if len(apart):
            yield self.context.finding(
                "contradiction",
                "error" if self.judged else "note",
                "the same input with another answer" + ("" if self.judged else ", which may be as good"),
                "decide which is right, and remove the others"
                if self.judged
                else "look at them: do both answers hold?",
                rows[apart],
                beside=beside[apart],
            )


def _claims(one: Entry) -> Iterator[tuple[str, str]]:
    """(of what, what is said)."""
    if isinstance(one.record, Preference):
        for good, answer in zip("yn", (one.record.chosen, one.record.rejected), strict=True):
            yield f"{one.asked}\0{whole(answer)}", good
    elif isinstance(one.record, Unpaired):
        yield f"{one.asked}\0{whole(one.record.completion)}", str(one.record.desirable)
    elif one.asked.strip():
        yield one.asked, one.answer
