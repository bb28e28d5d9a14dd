"""What an evaluation tells beyond its metrics: costs against those of the baselines, and the best and worst rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bottega.auditing.entries import create_entry
from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.reporting.model import MetricComparison

# Rows shown of the best, and of the worst.
MAX_RANKED_ROWS = 10

# Characters shown of a prompt or an answer.
MAX_TEXT_LENGTH = 300


class RankedRows(NamedTuple):
    """The rows that differ most between run and base, by `metric`; no rows if no metric is defined per row."""

    metric: str | None
    best: list[MetricComparison]
    worst: list[MetricComparison]


def summarize_costs(evaluation: Evaluation, training_seconds: float) -> list[str]:
    """One sentence per baseline that generates answers: its cost against the run's, and when training has paid off."""
    run = evaluation.cost
    if run is None:
        return []
    costs = ((comparison.name, comparison.cost) for comparison in evaluation.contenders)
    return [_compare_costs(name, run, cost, training_seconds) for name, cost in costs if cost is not None]


def _compare_costs(name: str, run: Cost, baseline: Cost, training_seconds: float) -> str:
    tokens, seconds = baseline.read - run.read, baseline.seconds - run.seconds  # saved by the run
    reads = "reads as many tokens"
    if round(tokens):
        reads = f"reads {abs(tokens):.0f} {'fewer' if tokens >= 0 else 'more'} tokens"
    takes = f"takes {abs(seconds):.3f} s {'less' if seconds >= 0 else 'longer'} on this machine"
    paid_off = ""
    if seconds > 0:
        answers = training_seconds / seconds
        paid_off = f"; the {training_seconds:,.0f} s of training are saved after {answers:,.0f} answers"
    return f"Cost per answer, compared with {name}: the run {reads} and {takes}{paid_off}."


def rank_rows(evaluation: Evaluation) -> RankedRows:
    """The rows with the greatest and with the least gain over the base, by loss if possible."""
    estimates = [estimate for estimate in evaluation.estimates if _is_per_row(estimate, evaluation)]
    # Loss first: it is continuous, where accuracy ranks many rows the same.
    estimate = next((each for each in estimates if each.metric == "loss"), next(iter(estimates), None))
    if estimate is None or estimate.each is None:
        return RankedRows(None, [], [])
    run, base = estimate.each  # [R]
    gain = (run - base) if estimate.higher else (base - run)
    order = np.argsort(-gain, kind="stable").tolist()
    # At most half of the rows on either side, so that none is listed on both.
    count = min(MAX_RANKED_ROWS, len(order) // 2)

    def compare(row: int) -> MetricComparison:
        return _compare_row(evaluation, row, float(run[row]), float(base[row]))

    best, worst = order[:count], order[::-1][:count]
    return RankedRows(estimate.metric, [compare(row) for row in best], [compare(row) for row in worst])


def _is_per_row(estimate: Estimate, evaluation: Evaluation) -> bool:
    """Whether the metric has a value for each record; some have one for each passage or pair instead."""
    return estimate.each is not None and len(estimate.each[0]) == len(evaluation.records)


def _compare_row(evaluation: Evaluation, row: int, run: float, base: float) -> MetricComparison:
    entry = create_entry(0, evaluation.records[row])
    base_answers = evaluation.contenders[0].answers if evaluation.contenders else None
    run_answer, base_answer = (answers[row] if answers else None for answers in (evaluation.answers, base_answers))
    return MetricComparison(
        where=entry.where,
        prompt=_shorten(entry.prompt),
        reference=_shorten(entry.answer),
        run=run,
        base=base,
        run_answer=None if run_answer is None else _shorten(run_answer),
        base_answer=None if base_answer is None else _shorten(base_answer),
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[:MAX_TEXT_LENGTH]} …"
