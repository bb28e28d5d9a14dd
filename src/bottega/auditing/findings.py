"""What an audit says: findings, what was not checked, and what the rows are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["error", "warning", "note"]
"""What would spoil a run or its measure; what may; what one should know."""

Mend = Literal["remove", "repair"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EXAMPLES = 10
"""Most places that a finding names."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """Something found in the rows.

    kind      in one or two words: `duplicate`
    what      in a sentence
    fix       what to do about it
    count     how many rows it concerns
    examples  where the first of them stand, each with the row it is like, where there is one
    mend      what a cleaned copy does with these rows; None where only a person can tell
    rows      their numbers in the data, from 0
    """

    kind: str
    severity: Severity
    what: str
    fix: str
    count: int
    examples: Sequence[str]
    mend: Mend | None = None
    rows: Numbers = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    def document(self) -> dict[str, Any]:
        names = ("kind", "severity", "count", "what", "fix", "mend")
        return {name: getattr(self, name) for name in names} | {"examples": list(self.examples)}


@dataclass(frozen=True)
class Audit:
    """What was found, the worst first.

    rows        how many were read, the unsound included
    against     what they were compared with, and how many rows that has
    findings    what is wrong, or worth knowing
    unchecked   check → why it was left out, or what it left out
    shape       what the rows are like: lengths, labels, languages, each a list of (name, count)
    cleaned     rows of the cleaned copy that were (kept, removed, repaired); None where none was asked for
    """

    rows: int
    against: Mapping[str, int]
    findings: Sequence[Finding]
    unchecked: Mapping[str, str]
    shape: Mapping[str, Sequence[tuple[str, int]]]
    cleaned: tuple[int, int, int] | None
    seconds: float

    def worst(self) -> Severity | None:
        """The severity of the worst finding."""
        return next((one for one in SEVERITIES if any(found.severity == one for found in self.findings)), None)

    def document(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rows": self.rows,
            "against": dict(self.against),
            "findings": [found.document() for found in self.findings],
            "unchecked": dict(self.unchecked),
            "shape": {name: [list(pair) for pair in pairs] for name, pairs in self.shape.items()},
            "cleaned": dict(zip(("kept", "removed", "repaired"), self.cleaned, strict=True)) if self.cleaned else None,
            "seconds": self.seconds,
        }
