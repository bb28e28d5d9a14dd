"""Near duplicates: reworded, repunctuated or shortened copies, within the data and of rows in comparison sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from bottega.auditing.checks import Check, Context
from bottega.auditing.checks.duplicates import hash_text
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Mend, Severity
from bottega.auditing.minhash import MAX_CHARACTERS, NearDuplicateIndex
from bottega.metrics.answers import MIN_PROSE_WORDS
from bottega.tokenization.unicode_words import count_words


class NearDuplicates(Check):
    """Pairs of rows that have most of their text in common but are not equal."""

    needs: ClassVar[tuple[str, ...]] = ("datasketch",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.index = NearDuplicateIndex(context.near)
        # Hash of a content → first row that has it; row → hash of what else it teaches.
        self.first_row, self.extras = dict[int, int](), dict[int, int]()
        self.repeats = list[tuple[int, int]]()  # (first row, repetition in the data)
        self.comparison_starts: dict[str, int] = {}
        self.truncated = 0

    def add_comparison(self, name: str, entries: Sequence[Entry]) -> None:
        self.comparison_starts.setdefault(name, entries[0].row)
        self.add(entries)

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            # Exact repetitions are reported by `duplicates`; comparing them all would be quadratic in their number.
            first = self.first_row.setdefault(hash_text(" ".join(entry.content.split())), entry.row)
            if first == entry.row:
                self.truncated += len(entry.content) > MAX_CHARACTERS
                self.index.add(entry.row, entry.content)
                # An answer of few words is a choice among several, not one of many wordings: if it differs, the row
                # teaches something else.
                short_answer = entry.answer if count_words(entry.answer) < MIN_PROSE_WORDS else ""
                self.extras[entry.row] = hash_text(entry.extras + short_answer)
            elif first >= self.context.data_start:
                self.repeats.append((first, entry.row))

    @property
    def unchecked(self) -> str:
        if not self.truncated:
            return ""
        return f"the ends of {self.truncated:,} texts, beyond {MAX_CHARACTERS:,} characters of each"

    def findings(self) -> Iterator[Finding]:
        self.context.report_status("comparing near duplicates")
        same, different, leaked = self._classify_pairs()
        threshold = f"{self.context.near:.0%}"
        if same:
            yield self._finding(
                same,
                "near duplicate",
                "warning",
                f"rows that have {threshold} or more of their text in common with another row",
                "keep one of each, unless the model should learn the difference",
            )
        if different:
            yield self._finding(
                different,
                "near duplicate, another answer",
                "note",
                f"rows that have {threshold} or more of their text in common with a row of another answer",
                "look at them: does the difference in the input justify the other answer?",
                mend=None,
            )
        for name, rows in leaked.items():
            if rows:
                yield self._finding(
                    rows,
                    "near leak",
                    "error",
                    f"{len(rows)} rows are near duplicates of rows in {name}, which would measure memorization",
                    "remove them from the training data, or from the evaluation set",
                )

    def _classify_pairs(self) -> tuple[dict[int, int], dict[int, int], dict[str, dict[int, int]]]:
        """Row → similar earlier row: (of the same answer, of another answer, {comparison set: of that set})."""
        same, different = dict[int, int](), dict[int, int]()
        leaked: dict[str, dict[int, int]] = {name: {} for name in self.comparison_starts}
        # Sorted, so that each row is matched with its earliest neighbor, and results do not depend on hashing.
        for first, second, _ in sorted(self.index.pairs()):
            if first >= self.context.data_start:
                # A row that will be removed must not cause the removal of another.
                if first not in same:
                    (same if self.extras[first] == self.extras[second] else different).setdefault(second, first)
            elif second >= self.context.data_start:
                leaked[self._comparison_of(first)].setdefault(second, first)
        different = {row: first for row, first in different.items() if row not in same}
        # Repetitions were not compared: they leak if their first occurrence does.
        for rows in leaked.values():
            rows |= {row: rows[first] for first, row in self.repeats if first in rows}
        return same, different, leaked

    def _finding(
        self,
        similar: Mapping[int, int],
        kind: str,
        severity: Severity,
        what: str,
        fix: str,
        *,
        mend: Mend | None = "remove",
    ) -> Finding:
        rows = sorted(similar)
        return self.context.finding(kind, severity, what, fix, rows, beside=[similar[row] for row in rows], mend=mend)

    def _comparison_of(self, row: int) -> str:
        """The comparison set a row belongs to: the last one that starts at or before it."""
        return max((start, name) for name, start in self.comparison_starts.items() if start <= row)[1]
