"""Rows that are nearly the same: reworded, repunctuated, cut; within the data, and in what it is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from bottega.auditing.checks import Check, Context
from bottega.auditing.checks.duplicates import key
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Mend, Severity
from bottega.auditing.minhash import LONGEST, Near
from bottega.metrics.answers import WORDY
from bottega.tokenization.unicode_words import counted


class NearDuplicates(Check):
    """Pairs of rows that have most of their text in common, and are not the same."""

    needs: ClassVar[tuple[str, ...]] = ("datasketch",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.index = Near(context.near)
        self.first, self.rest = dict[int, int](), dict[int, int]()
        self.again = list[tuple[int, int]]()
        self.sides: dict[str, int] = {}
        self.long = 0

    def compare(self, name: str, entries: Sequence[Entry]) -> None:
        self.sides.setdefault(name, entries[0].number)
        self._add(entries)

    def see(self, entries: Sequence[Entry]) -> None:
        self._add(entries)

    def _add(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            # The same text again is what the check of duplicates tells; it is compared once.
            first = self.first.setdefault(key(" ".join(one.content.split())), one.number)
            if first == one.number:
                self.long += len(one.content) > LONGEST
                self.index.add(one.number, one.content)
                # An answer of few words is one of several there are, and not a way to say the same.
                self.rest[one.number] = key(one.rest + (one.answer if counted(one.answer) < WORDY else ""))
            elif first >= self.context.start:
                self.again.append((first, one.number))

    @property
    def unchecked(self) -> str:
        return f"the ends of {self.long:,} texts, beyond {LONGEST:,} characters of each" if self.long else ""

    def findings(self) -> Iterator[Finding]:
        again, apart = dict[int, int](), dict[int, int]()
        leaked: dict[str, dict[int, int]] = {name: {} for name in self.sides}
        self.context.tell("comparing rows that are nearly the same")
        for one, other, _ in sorted(self.index.pairs()):
            if one >= self.context.start:
                if one not in again:  # what is removed is like nothing any more
                    (again if self.rest[one] == self.rest[other] else apart).setdefault(other, one)
            elif other >= self.context.start:
                leaked[self._side(one)].setdefault(other, one)
        if again:
            yield self._finding(
                again,
                "near duplicate",
                "warning",
                f"rows that have {self.context.near:.0%} or more of their text in common with another one",
                "keep one of each, unless the difference is what is to be learned",
            )
        apart = {row: first for row, first in apart.items() if row not in again}
        if apart:
            yield self._finding(
                apart,
                "near duplicate, another answer",
                "note",
                f"rows that have {self.context.near:.0%} or more of their text in common with one of another answer",
                "look at them: does what differs make the difference?",
                mend=None,
            )
        for name, rows in leaked.items():
            rows |= {row: rows[first] for first, row in self.again if first in rows}
            if rows:
                yield self._finding(
                    rows,
                    "near leak",
                    "error",
                    f"{len(rows)} rows are nearly the same as one of {name}, which would measure memory",
                    "remove them from what is trained on, or from what is measured on",
                )

    def _finding(
        self,
        rows: Mapping[int, int],
        kind: str,
        severity: Severity,
        what: str,
        fix: str,
        *,
        mend: Mend | None = "remove",
    ) -> Finding:
        numbers = sorted(rows)
        beside = [rows[number] for number in numbers]
        return self.context.finding(kind, severity, what, fix, numbers, beside=beside, mend=mend)

    def _side(self, row: int) -> str:
        return max((start, name) for name, start in self.sides.items() if start <= row)[1]
