"""The distribution of labels, and labels that are one label in two spellings."""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity
from bottega.tokenization.unicode_words import fold_text

# Rows of a label below which it can hardly be learned, nor its accuracy be estimated.
RARE = 5

# If there are more different labels than this and all are numbers, they are regression targets and not classes.
MAX_NUMERIC_CLASSES = 20

# Fraction of one label above which accuracy hides all others: predicting it always is right that often.
MAJORITY_FRACTION = 0.9

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")

# Differences in spelling that do not make another label: white space, underscores and quotation marks, hyphens between
# letters, punctuation at the end. Signs and symbols do: -1 and 1, C and C++ are different labels.
SPELLING_NOISE = re.compile(r"[\s_'\"’‘“”`]+|(?<=[^\W\d])-(?=[^\W\d])|(?<=\w)[.,;:]+$")


class Labels(Check):
    """Rare labels, a label in nearly all rows, spelling variants, and labels that only a comparison set has."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.label_ids: dict[str, int] = {}
        # One element per label of a row; a row with several labels, or spans, has several.
        self.rows, self.labels = array("q"), array("l")
        self.comparisons: dict[str, Counter[str]] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for label in entry.record.label_names:
                self.rows.append(entry.row)
                self.labels.append(self.label_ids.setdefault(label, len(self.label_ids)))

    def add_comparison(self, name: str, entries: Sequence[Entry]) -> None:
        counts = self.comparisons.setdefault(name, Counter())
        for entry in entries:
            counts.update(entry.record.label_names)

    def findings(self) -> Iterator[Finding]:
        if not self.label_ids or self._are_values:
            return
        names, labels = list(self.label_ids), np.array(self.labels)  # [labelled]
        yield from self._distribution(names, labels)
        yield from self._spelling_variants(names, labels)
        for name, labels_there in self.comparisons.items():
            unseen = [label for label in labels_there if label not in self.label_ids]
            if unseen:
                what = f"{len(unseen)} labels of {name} are in no row here: {', '.join(map(repr, unseen[:5]))}"
                fix = "add rows with them, or correct their spelling"
                yield self.context.finding("unseen label", "error", what, fix, [])

    def _distribution(self, names: Sequence[str], labels: NDArray[np.int64]) -> Iterator[Finding]:
        counts = self._counts()
        if len(names) == 1:
            what, fix = (
                f"all rows have the label {names[0]!r}: there is nothing to learn",
                "add rows with another label",
            )
            yield self._finding("one label", "error", what, fix, labels == 0)
        rare = np.flatnonzero(counts < RARE)
        if len(rare):
            rarest = rare[np.argsort(counts[rare])][:5]
            examples = ", ".join(f"{names[label]!r} ({counts[label]})" for label in rarest)
            what = f"{len(rare)} of {len(names)} labels have fewer than {RARE} rows: {examples}"
            fix = "add rows with them, or merge them with other labels"
            yield self._finding("rare label", "warning", what, fix, np.isin(labels, rare))
        if counts.max() > MAJORITY_FRACTION * counts.sum() and len(names) > 1:
            majority, fraction = int(counts.argmax()), counts.max() / counts.sum()
            what = f"{fraction:.1%} of the labels are {names[majority]!r}: always predicting it is right as often"
            fix = "evaluate with macro-F1; objective.weights=balanced gives rare labels more weight"
            yield self._finding("imbalance", "warning", what, fix, labels != majority)

    def _spelling_variants(self, names: Sequence[str], labels: NDArray[np.int64]) -> Iterator[Finding]:
        by_spelling, counts = defaultdict[str, list[int]](list), self._counts()
        for label, name in enumerate(names):
            by_spelling[_normalize_spelling(name)].append(label)
        variants = [group for group in by_spelling.values() if len(group) > 1]
        if variants:
            examples = "; ".join(" = ".join(repr(names[label]) for label in group) for group in variants[:3])
            # Listed are the rows to change: those of all spellings but the most frequent.
            rarer = [label for group in variants for label in sorted(group, key=lambda label: -counts[label])[1:]]
            what = f"labels that differ only in case, spaces or punctuation: {examples}"
            fix = "use one spelling for each"
            yield self._finding("label written twice", "error", what, fix, np.isin(labels, rarer))

    def _finding(self, kind: str, severity: Severity, what: str, fix: str, selected: NDArray[np.bool_]) -> Finding:
        """selected  [labelled] which labels the finding is about"""
        rows = np.unique(np.array(self.rows, np.int64)[selected])
        return self.context.finding(kind, severity, what, fix, rows)

    def _counts(self) -> NDArray[np.int64]:
        """[C] occurrences of each label."""
        return np.bincount(np.array(self.labels), minlength=len(self.label_ids))

    @property
    def _are_values(self) -> bool:
        """Whether the labels are regression targets."""
        return len(self.label_ids) > MAX_NUMERIC_CLASSES and all(_is_number(name) for name in self.label_ids)

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        if not self.label_ids or self._are_values:
            return {}
        counts, names = self._counts(), list(self.label_ids)
        order = np.argsort(-counts, kind="stable")
        return {"labels": [(names[label], int(counts[label])) for label in order.tolist()]}


def _normalize_spelling(label: str) -> str:
    """The same string for spelling variants of a label: numbers by value, words without case and SPELLING_NOISE."""
    plain = fold_text(label).strip().replace("\u2212", "-")  # the typographic minus sign
    if NUMBER.fullmatch(plain):
        # Decimal, not float: long identifiers keep all their digits. Adding 0 turns -0 into 0.
        return str(Decimal(plain).normalize() + 0)
    return SPELLING_NOISE.sub("", plain) or plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
