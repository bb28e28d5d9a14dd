"""The content of a report as one value. Every rendering is a function of it; `document` is the JSON rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bottega.auditing.findings import Audit
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.runs.curves import Curve


@dataclass(frozen=True)
class MetricComparison:
    """One row of the evaluation set: prompt and reference answer, a metric of run and base, and their answers.

    run_answer   what the run generated; None if its answer to this row was not generated
    base_answer  the same of the base
    """

    where: str
    prompt: str
    reference: str
    run: float
    base: float
    run_answer: str | None = None
    base_answer: str | None = None

    def document(self) -> dict[str, Any]:
        """JSON-serializable data."""
        # The keys are those of the first version of report.json, which programs may read.
        return {
            "where": self.where,
            "asked": self.prompt,
            "answer": self.reference,
            "run": self.run,
            "base": self.base,
            "said": self.run_answer,
            "said_before": self.base_answer,
        }


@dataclass(frozen=True)
class RunReport:
    """Everything a report shows.

    evaluation      metrics, confidence intervals, baselines, verdict
    facts           what was trained, on what, how long, at what cost: name → text
    curves          charts by title, each with its curves by name: (updates, values)
    audit           audit of the training data; None if the data is no longer available
    loss_summary    sentences on overfitting
    cost_summary    sentences on the cost of an answer, and on when training has paid off
    ranking_metric  the metric by which rows are ranked; None if no metric is defined per row
    best            rows with the greatest gain over the base, `worst` those with the least
    components      (kind, name, licence) of everything the result is made of
    notes           notes of the run
    files           the start of the checksum of each file the run read
    command         trains the run again
    """

    name: str
    evaluation: Evaluation
    facts: Mapping[str, str]
    curves: Mapping[str, Mapping[str, Curve]]
    audit: Audit | None
    loss_summary: Sequence[str]
    cost_summary: Sequence[str]
    ranking_metric: str | None
    best: Sequence[MetricComparison]
    worst: Sequence[MetricComparison]
    components: Sequence[tuple[str, str, str]]
    notes: Sequence[str]
    recipe: str
    versions: Mapping[str, str]
    files: Mapping[str, str]
    command: str

    @property
    def ranked_rows(self) -> list[tuple[str, Sequence[MetricComparison]]]:
        """(title, rows) of the best and of the worst rows; empty if no metric is defined per row."""
        if self.ranking_metric is None or not self.best:
            return []
        metric = metric_label(self.ranking_metric)
        return [(f"Most improved rows, by {metric}", self.best), (f"Least improved rows, by {metric}", self.worst)]

    def document(self) -> dict[str, Any]:
        """The report as JSON-serializable data, the keys of the evaluation among it."""
        names = ("name", "facts", "notes", "recipe", "versions", "files", "command")
        return {
            **self.evaluation.document(),
            **{name: getattr(self, name) for name in names},
            "by": self.ranking_metric,
            "curves": {
                title: {name: [list(axis) for axis in curve] for name, curve in curves.items()}
                for title, curves in self.curves.items()
            },
            "best": [row.document() for row in self.best],
            "worst": [row.document() for row in self.worst],
            "audit": None if self.audit is None else self.audit.document(),
            "fit": list(self.loss_summary),
            "worth": list(self.cost_summary),
            "parts": [list(component) for component in self.components],
        }
