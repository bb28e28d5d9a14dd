"""What there is to say of a run, as one value; every rendering is a function of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bottega.auditing.findings import Audit
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.runs.curves import Curve


@dataclass(frozen=True)
class Compared:
    """A row of the exam: where it stands, what was asked and is right, a number of both models, what they wrote.

    said  what the run wrote; None where its answer was not written out, as `said_before` of the base
    """

    where: str
    asked: str
    answer: str
    run: float
    base: float
    said: str | None = None
    said_before: str | None = None


@dataclass(frozen=True)
class Report:
    """All there is to say of a run.

    facts     what was trained, on what, how long, at what cost, by name
    curves    charts by title, each with its curves by name: (updates, values)
    by        the metric by which rows are called best and worst; None where no number is of single rows
    audit     what was found in the rows it learned from
    fit       what the curves say of overfitting
    worth     what an answer costs beside the contenders', and when training has paid for itself
    best      rows that gained most over the base, `worst` those that gained least
    parts     (what, name, licence) of everything the result is made of
    notes     what the run said along the way
    files     the beginning of the checksum of each file it read
    command   repeats it
    """

    name: str
    evaluation: Evaluation
    facts: Mapping[str, str]
    curves: Mapping[str, Mapping[str, Curve]]
    audit: Audit | None
    fit: Sequence[str]
    worth: Sequence[str]
    by: str | None
    best: Sequence[Compared]
    worst: Sequence[Compared]
    parts: Sequence[tuple[str, str, str]]
    notes: Sequence[str]
    recipe: str
    versions: Mapping[str, str]
    files: Mapping[str, str]
    command: str

    @property
    def extremes(self) -> list[tuple[str, Sequence[Compared]]]:
        """The best and the worst rows under their titles; nothing where no number is of single rows."""
        if self.by is None or not self.best:
            return []
        return [
            (f"Rows that gained most, by {metric_label(self.by)}", self.best),
            (f"Rows that gained least, by {metric_label(self.by)}", self.worst),
        ]

    def document(self) -> dict[str, Any]:
        """Plain data."""
        names = ("name", "facts", "by", "notes", "recipe", "versions", "files", "command")
        return {
            **self.evaluation.document(),
            **{name: getattr(self, name) for name in names},
            "curves": {
                title: {name: [list(part) for part in curve] for name, curve in curves.items()}
                for title, curves in self.curves.items()
            },
            "best": [asdict(one) for one in self.best],
            "worst": [asdict(one) for one in self.worst],
            "audit": None if self.audit is None else self.audit.document(),
            "fit": list(self.fit),
            "worth": list(self.worth),
            "parts": [list(part) for part in self.parts],
        }
