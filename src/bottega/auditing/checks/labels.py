"""How often each label stands, and which are one label written twice."""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity
from bottega.records import Labelled, Multilabelled, Record, Tagged
from bottega.tokenization.unicode_words import folded

RARE = 5
"""Rows of a label below which little is learned of it, and nothing can be said of how well."""

VALUES = 20
"""Of more different labels, all of them numbers, these are no classes but values to be predicted."""

MOST = 0.9
"""Share of rows from which on a label hides the others: naming it always is right so often."""


class Labels(Check):
    """Rare labels, one that stands nearly everywhere, look-alikes, and labels that only another file has."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.numbers: dict[str, int] = {}
        self.rows, self.labels = array("q"), array("l")
        self.others: dict[str, Counter[str]] = {}

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            for label in _labels(one.record):
                self.rows.append(one.number)
                self.labels.append(self.numbers.setdefault(label, len(self.numbers)))

    def compare(self, name: str, entries: Sequence[Entry]) -> None:
        counts = self.others.setdefault(name, Counter())
        for one in entries:
            counts.update(_labels(one.record))

    def findings(self) -> Iterator[Finding]:
        if not self.numbers or self._values:
            return
        labels, names, counts = np.array(self.labels), list(self.numbers), self._counts()
        if len(names) == 1:
            what, fix = f"every row is {names[0]!r}: there is nothing to tell apart", "add rows with another label"
            yield self._of("one label", "error", what, fix, labels == 0)
        rare = np.flatnonzero(counts < RARE)
        if len(rare):
            shown = ", ".join(f"{names[place]!r} ({counts[place]})" for place in rare[np.argsort(counts[rare])][:5])
            what = f"{len(rare)} of {len(names)} labels have fewer than {RARE} rows: {shown}"
            yield self._of(
                "rare label", "warning", what, "add rows of them, or join them with others", np.isin(labels, rare)
            )
        if counts.max() > MOST * counts.sum() and len(names) > 1:
            often = int(counts.argmax())
            share = counts.max() / counts.sum()
            what = f"{share:.1%} of the labels are {names[often]!r}: always naming it is as often right"
            yield self._of(
                "imbalance",
                "warning",
                what,
                "judge by macro-F1; objective.weights=balanced weighs rare ones more",
                labels != often,
            )
        yield from self._alike(names, labels)
        for name, known in self.others.items():
            unseen = [label for label in known if label not in self.numbers]
            if unseen:
                what = f"{len(unseen)} labels of {name} stand in no row here: {', '.join(map(repr, unseen[:5]))}"
                yield self.context.finding(
                    "unseen label", "error", what, "add rows of them, or mend their spelling", []
                )

    def _alike(self, names: Sequence[str], labels: np.ndarray) -> Iterator[Finding]:
        spelled = defaultdict[str, list[int]](list)
        for number, name in enumerate(names):
            spelled[_spelling(name)].append(number)
        twice = [group for group in spelled.values() if len(group) > 1]
        if twice:
            shown = "; ".join(" = ".join(repr(names[place]) for place in group) for group in twice[:3])
            rarer = [place for group in twice for place in sorted(group, key=lambda one: -self._counts()[one])[1:]]
            what = f"labels that differ in case, spaces or marks only: {shown}"
            yield self._of("label written twice", "error", what, "write each in one way", np.isin(labels, rarer))

    def _of(self, kind: str, severity: Severity, what: str, fix: str, which: np.ndarray) -> Finding:
        rows = np.unique(np.array(self.rows, np.int64)[which])
        return self.context.finding(kind, severity, what, fix, rows)

    def _counts(self) -> np.ndarray:
        return np.bincount(np.array(self.labels), minlength=len(self.numbers))

    @property
    def _values(self) -> bool:
        """Whether the labels are numbers to be predicted."""
        return len(self.numbers) > VALUES and all(_is_number(name) for name in self.numbers)

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        if not self.numbers or self._values:
            return {}
        counts = self._counts()
        order = np.argsort(-counts, kind="stable")
        names = list(self.numbers)
        return {"labels": [(names[place], int(counts[place])) for place in order.tolist()]}


def _spelling(label: str) -> str:
    """The same for labels that are one written in two ways: numbers by what they say, words without case, spaces and
    the marks of writing; a sign, +, # or a decimal point makes another label."""
    plain = folded(label).strip().replace("\u2212", "-")
    if NUMBER.fullmatch(plain):
        return str(Decimal(plain).normalize() + 0)
    return DROPPED.sub("", plain) or plain


NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")
DROPPED = re.compile(r"[\s_'\"’‘“”`]+|(?<=[^\W\d])-(?=[^\W\d])|(?<=\w)[.,;:]+$")
"""White space and quotation marks, hyphens between letters, and a stop at the end."""


def _labels(record: Record) -> Sequence[str]:
    if isinstance(record, Labelled):
        return (record.label,)
    if isinstance(record, Multilabelled):
        return record.labels
    return [span.label for span in record.spans] if isinstance(record, Tagged) else ()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
