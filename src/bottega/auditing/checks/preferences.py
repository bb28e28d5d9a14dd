"""Preferences that teach nothing, or teach something else: equal answers, the longer one always, one side only."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry, whole
from bottega.auditing.findings import Finding
from bottega.metrics.intervals import proportion_interval
from bottega.records import Preference, Unpaired
from bottega.tokenization.unicode_words import composed

BIAS = 0.6
"""Share of pairs whose chosen answer is the longer one that says more of length than of worth."""

FEWEST = 0.05
"""Share of good or of bad answers below which one side is hardly seen."""


class Preferences(Check):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows, self.longer = array("q"), array("b")
        self.equal, self.nearly = array("q"), array("q")
        self.good, self.bad = 0, 0

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            if isinstance(one.record, Preference):
                chosen, rejected = (composed(whole(side)).strip() for side in (one.record.chosen, one.record.rejected))
                if chosen == rejected:
                    self.equal.append(one.number)
                elif chosen.casefold().split() == rejected.casefold().split():
                    self.nearly.append(one.number)
                self.rows.append(one.number)
                self.longer.append((len(chosen) > len(rejected)) - (len(chosen) < len(rejected)))
            elif isinstance(one.record, Unpaired):
                self.good += one.record.desirable
                self.bad += not one.record.desirable

    def findings(self) -> Iterator[Finding]:
        if self.equal:
            what, fix = "chosen and rejected differ in spaces around them only", "remove them: they teach nothing"
            yield self.context.finding("equal answers", "error", what, fix, self.equal, mend="remove")
        if self.nearly:
            what, fix = "chosen and rejected differ in spaces or case only", "remove them, unless that is to be learned"
            yield self.context.finding("equal answers", "warning", what, fix, self.nearly)
        longer = np.array(self.longer)
        differ = int((longer != 0).sum())
        if differ:
            for side, which in (("longer", longer > 0), ("shorter", longer < 0)):
                count = int(which.sum())
                if proportion_interval(count, differ)[0] > BIAS:
                    share = f"{count / differ:.0%} of the pairs"
                    what = f"the chosen answer is the {side} one in {share}: length may be what is learned"
                    fix = "balance the lengths, or see what taking the longer one is worth: bottega evaluate"
                    yield self.context.finding("length bias", "warning", what, fix, np.array(self.rows)[which])
        judged = self.good + self.bad
        if judged and min(self.good, self.bad) < FEWEST * judged:
            what = f"{self.good} answers are good and {self.bad} bad: one side is hardly seen"
            fix = "add some of the other, or weigh them: objective.desirable, objective.undesirable"
            yield self.context.finding("one-sided", "warning", what, fix, [])
