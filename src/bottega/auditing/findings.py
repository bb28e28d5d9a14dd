"""The result of an audit: findings, checks that were skipped, and statistics of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# error: would spoil a run or its evaluation; warning: may do so; note: worth knowing.
Severity = Literal["error", "warning", "note"]
# Worst first: findings are sorted by their index here.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Mend = Literal["remove", "repair"]

# Most locations that a finding lists. A leak may concern every row; `count` and `rows` are always complete.
MAX_EXAMPLES = 10

RowIndices = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """A fault, and the rows that have it.

    kind      the name of the fault in one or two words, such as `duplicate`
    what      a description in one sentence
    fix       what to do about it
    count     number of rows concerned
    examples  locations of the first of them, each with the row it resembles, if there is one
    mend      what a cleaned copy does with these rows; None if only a person can decide
    rows      [count] indices into the data, from 0
    """

    kind: str
    severity: Severity
    what: str
    fix: str
    count: int
    examples: Sequence[str]
    mend: Mend | None = None
    rows: RowIndices = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    def document(self) -> dict[str, Any]:
        """The finding as JSON-serializable data, without `rows`, which may be millions."""
        names = ("kind", "severity", "count", "what", "fix", "mend")
        return {name: getattr(self, name) for name in names} | {"examples": list(self.examples)}


@dataclass(frozen=True)
class Audit:
    """Everything an audit found, the worst findings first.

    rows        number of rows read, including invalid ones
    against     name of each comparison set → its number of rows
    findings    faults, and facts worth knowing
    unchecked   check → why it did not run, or which part of its work it left out
    shape       statistics of the data (lengths, labels, languages), each a list of (name, row count)
    cleaned     rows of the cleaned copy: (kept, removed, repaired); None without a copy
    seconds     wall-clock time
    """

    rows: int
    against: Mapping[str, int]
    findings: Sequence[Finding]
    unchecked: Mapping[str, str]
    shape: Mapping[str, Sequence[tuple[str, int]]]
    cleaned: tuple[int, int, int] | None
    seconds: float

    def worst(self) -> Severity | None:
        """The highest severity among the findings; None without findings."""
        present = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in present), None)

    def document(self) -> dict[str, Any]:
        """The audit as JSON-serializable data."""
        return {
            "rows": self.rows,
            "against": dict(self.against),
            "findings": [finding.document() for finding in self.findings],
            "unchecked": dict(self.unchecked),
            "shape": {name: [list(pair) for pair in pairs] for name, pairs in self.shape.items()},
            "cleaned": dict(zip(("kept", "removed", "repaired"), self.cleaned, strict=True)) if self.cleaned else None,
            "seconds": self.seconds,
        }
