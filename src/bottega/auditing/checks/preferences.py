"""Preferences that teach nothing or something unintended: equal answers, length bias, ratings of one side only."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.metrics.intervals import proportion_interval
from bottega.records import Preference, Unpaired, full_answer
from bottega.tokenization.unicode_words import to_nfc

# Fraction of pairs whose chosen answer is the longer (or the shorter) one that indicates a bias for length. The lower
# end of the fraction's confidence interval must exceed it, so that few pairs are no evidence.
LENGTH_BIAS = 0.6

# Fraction of good, or of bad, ratings below which the model hardly sees that side.
MIN_SIDE_FRACTION = 0.05


class Preferences(Check):
    """Checks of pairs of answers, and of answers rated good or bad."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # Per pair its row, and the sign of the length difference: 1 if the chosen answer is longer.
        self.rows, self.length_signs = array("q"), array("b")
        self.equal, self.nearly_equal = array("q"), array("q")
        self.good, self.bad = 0, 0

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            record = entry.record
            if isinstance(record, Preference):
                chosen, rejected = (to_nfc(full_answer(side)).strip() for side in (record.chosen, record.rejected))
                if chosen == rejected:
                    self.equal.append(entry.row)
                elif chosen.casefold().split() == rejected.casefold().split():
                    self.nearly_equal.append(entry.row)
                self.rows.append(entry.row)
                self.length_signs.append((len(chosen) > len(rejected)) - (len(chosen) < len(rejected)))
            elif isinstance(record, Unpaired):
                self.good += record.desirable
                self.bad += not record.desirable

    def findings(self) -> Iterator[Finding]:
        if self.equal:
            what = "chosen and rejected are equal, or differ only in white space around them"
            fix = "remove them: they teach nothing"
            yield self.context.finding("equal answers", "error", what, fix, self.equal, mend="remove")
        if self.nearly_equal:
            what = "chosen and rejected differ only in white space or case"
            fix = "remove them, unless the model should learn exactly that"
            yield self.context.finding("equal answers", "warning", what, fix, self.nearly_equal)
        yield from self._length_bias()
        rated = self.good + self.bad
        if rated and min(self.good, self.bad) < MIN_SIDE_FRACTION * rated:
            what = f"{self.good} answers are rated good and {self.bad} bad: the model hardly sees one side"
            fix = "add answers of that side, or change the weights: objective.desirable, objective.undesirable"
            yield self.context.finding("one-sided", "warning", what, fix, [])

    def _length_bias(self) -> Iterator[Finding]:
        signs = np.array(self.length_signs)  # [pairs]
        unequal = int((signs != 0).sum())
        if not unequal:
            return
        for side, selected in (("longer", signs > 0), ("shorter", signs < 0)):
            count = int(selected.sum())
            if proportion_interval(count, unequal)[0] > LENGTH_BIAS:
                fraction = f"{count / unequal:.0%}"
                what = f"the chosen answer is the {side} one in {fraction} of the pairs: the model may learn length"
                fix = "balance the lengths, or compare with the longer-answer baseline: bottega evaluate"
                yield self.context.finding("length bias", "warning", what, fix, np.array(self.rows)[selected])
