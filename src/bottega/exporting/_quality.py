"""What the precision of an export costs in the task's own metrics, with a paired interval, on rows the run held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.errors import BottegaError, RunError
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Comparison, evaluate
from bottega.exporting._source import TrainedModel
from bottega.progress import StatusCallback


@dataclass(frozen=True)
class TaskMetric:
    """A metric of what was trained and of its export, on the same rows.

    interval  of the export minus the trained model, 95 % for all models of the evaluation together; None where there
              are too few rows
    higher    whether higher is better; None where neither is
    """

    metric: str
    label: str
    rows: int
    trained: float
    exported: float
    interval: tuple[float, float] | None
    higher: bool | None

    @property
    def is_worse(self) -> bool:
        """Whether the export is worse beyond chance."""
        if self.interval is None or self.higher is None:
            return False
        low, high = self.interval
        return high < 0 if self.higher else low > 0

    def describe(self) -> str:
        """The metric in a line."""
        interval = "" if self.interval is None else " ({:+.3f} to {:+.3f})".format(*self.interval)
        return f"{self.label} {self.trained:.3f} → {self.exported:.3f}{interval}, {self.rows} rows"


def measure_quality(
    model: TrainedModel, folders: Sequence[Path], rows: int, tell: StatusCallback
) -> list[list[TaskMetric]]:
    """The metrics of exports of a run, that which decides its verdict first; a DataError or RunError if it has none."""
    if not model.resolved.is_run:
        raise RunError("only a run holds out rows to measure on", where=model.name, fix="export the run")
    paths = [str(folder) for folder in folders]
    result = evaluate(model.name, against=paths, rows=rows, answers=rows // 2, tell=tell)
    found = {comparison.name: comparison for comparison in result.contenders}
    return [_qualities(found.get(folder.name), result.verdict.metric) for folder in folders]


def try_quality(
    model: TrainedModel, folders: Sequence[Path], rows: int, tell: StatusCallback
) -> tuple[list[list[TaskMetric]], str]:
    """(the metrics of each export, empty), or (none of each, why)."""
    try:
        found = measure_quality(model, folders, rows, tell)
    # No rows, a base that is gone, too little memory: the proof stands without.
    except BottegaError as error:
        return [[] for _ in folders], error.what
    return found, "" if any(found) else "the run has no metric that the export has as well"


def _qualities(comparison: Comparison | None, deciding: str | None) -> list[TaskMetric]:
    if comparison is None:
        return []
    estimates = [each for each in comparison.estimates if each.base is not None]
    return [_quality(each) for each in sorted(estimates, key=lambda each: each.metric != deciding)]


def _quality(estimate: Estimate) -> TaskMetric:
    assert estimate.base is not None
    # An estimate is of the run minus its contender.
    turned = None if estimate.interval is None else (-estimate.interval[1], -estimate.interval[0])
    return TaskMetric(
        estimate.metric, estimate.label, estimate.rows, estimate.run, estimate.base, turned, estimate.higher
    )
