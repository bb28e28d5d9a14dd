"""A report as Markdown; and the tables and sentences that the HTML page shares with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.reporting.formats import ReportFormat
from bottega.reporting.model import MetricComparison, RunReport

DIFFERENCE = "difference (95 % CI)"
ESTIMATE_COLUMNS = ("metric", "run", "base", DIFFERENCE, "finding", "rows")
COST_COLUMNS = ("tokens read", "tokens generated", "seconds")
CONFUSION_COLUMNS = ("reference", "predicted", "rows")
COMPONENT_COLUMNS = ("component", "name", "licence")

# Facts whose key in report.json is not what people should read.
FACT_LABELS = {"began from": "base model", "training took": "training time", "on": "hardware"}

UNAVAILABLE_DATA = "the training data, and whether it contains evaluation rows: the data is no longer available here."
INTERVALS_NOTE = "All confidence intervals hold jointly with 95 % confidence."
COSTS_NOTE = "Tokens and seconds are means per generated answer; a dash means that no answers were generated."

# Headings that the HTML page has in common.
COMPARISON_HEADING = "Comparison with baselines: {metric}"
CONFUSIONS_HEADING = "Most frequent confusions"
SIDE_EFFECTS_HEADING = "Side effects"
# `benchmarks/reports.py` cuts reports at this heading.
RUN_HEADING = "The run"
AUDIT_HEADING = "Audit of the training data"
COMPONENTS_HEADING = "Components and licences"
REPRODUCE_HEADING = "Reproduce this run"


class MarkdownReport(ReportFormat):
    """Reads well anywhere."""

    rank: ClassVar[int] = 2

    def render(self, report: RunReport) -> str:
        return render_markdown(report)


def render_markdown(report: RunReport) -> str:
    """The whole report. Texts of rows are put on one line each, as tables require."""
    evaluation = report.evaluation
    parts = [
        f"# {report.name}",
        f"**{evaluation.verdict.sentence}**",
        format_scope(evaluation),
        _table(ESTIMATE_COLUMNS, map(estimate_cells, evaluation.estimates)),
        *(f"- {count} rows excluded: {reason}" for reason, count in excluded_rows(report).items()),
        *_baselines(evaluation),
        *([evaluation.spread()] if evaluation.spread() else []),
        *report.cost_summary,
        *_side_effects(evaluation),
        *report.loss_summary,
        *_confusions(evaluation.predictions),
        f"## {RUN_HEADING}",
        _table(["", ""], labelled_facts(report)),
    ]
    for title, rows in report.ranked_rows:
        parts += [f"## {title}", _table(*comparison_table(rows)), *missing_answers_note(evaluation, rows)]
    parts += [
        *_audit(report),
        f"## {COMPONENTS_HEADING}",
        _table(COMPONENT_COLUMNS, report.components),
        *(["## Notes", *(f"- {note}" for note in report.notes)] if report.notes else []),
        f"## {REPRODUCE_HEADING}",
        f"    {report.command}",
        f"```yaml\n{report.recipe.rstrip()}\n```",
        _table(["file", "SHA-256 (start)"], report.files.items()),
        format_versions(report.versions),
    ]
    return "\n\n".join(parts) + "\n"


# Shared with the HTML page


def format_scope(evaluation: Evaluation) -> str:
    """How many rows were evaluated, and what the column `base` is."""
    base = evaluation.base or "none, the run was trained from scratch"
    return f"Evaluated on {evaluation.rows} of {evaluation.of} rows. Base: {base}."


def estimate_cells(estimate: Estimate) -> list[str]:
    """The cells of an estimate under ESTIMATE_COLUMNS."""
    return [estimate.label, *estimate.formatted(), describe_finding(estimate), str(estimate.rows)]


def describe_finding(estimate: Estimate) -> str:
    """Whether the run is better by this metric; or why that cannot be decided. Empty without a baseline."""
    if estimate.finding is not None or estimate.base is None:
        return estimate.finding or ""
    return "too few rows" if estimate.interval is None else "neither direction is better"


def excluded_rows(report: RunReport) -> dict[str, int]:
    """Reason → number of rows that were not evaluated for it."""
    evaluation = report.evaluation
    # Under a void verdict, leaked rows were evaluated: there were too many to exclude.
    is_void = evaluation.verdict.outcome == "void"
    leaked = {} if is_void else {"they are in the training data": evaluation.leaked or 0}
    return {reason: count for reason, count in {**evaluation.dropped, **leaked}.items() if count}


def baseline_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of all baselines by the deciding metric, and of costs if any answers were generated."""
    has_costs = any([evaluation.cost, *(comparison.cost for comparison in evaluation.contenders)])
    rows = []
    for comparison in evaluation.contenders:
        estimate = comparison.shared(evaluation.verdict.metric)
        name, cells = comparison.name, ["no metric in common", "", "", ""]
        if estimate is not None:
            cells = [*estimate.formatted(), describe_finding(estimate)]
            # A baseline without the deciding metric is compared by another one.
            name += "" if estimate.metric == evaluation.verdict.metric else f", by {estimate.label}"
        rows.append([name, *cells, *(_cost_cells(comparison.cost) if has_costs else [])])
    if has_costs:
        rows.append(["the run", "", "", "", "", *_cost_cells(evaluation.cost)])
    return ["", "run", "baseline", DIFFERENCE, "finding", *(COST_COLUMNS if has_costs else ())], rows


def _cost_cells(cost: Cost | None) -> list[str]:
    return ["–", "–", "–"] if cost is None else [f"{cost.read:.0f}", f"{cost.written:.0f}", f"{cost.seconds:.3f}"]


def comparison_table(rows: Sequence[MetricComparison]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of evaluation rows side by side, with generated answers if there are any."""
    has_answers = any(row.run_answer or row.base_answer for row in rows)
    answer_columns = ["answer of the run", "answer of the base"] if has_answers else []
    cells = []
    for row in rows:
        answers = [_format_answer(row.run_answer), _format_answer(row.base_answer)] if has_answers else []
        cells.append([row.where, row.prompt, row.reference, *answers, f"{row.run:.3f}", f"{row.base:.3f}"])
    return ["row", "prompt", "reference", *answer_columns, "run", "base"], cells


def _format_answer(text: str | None) -> str:
    return "(not generated)" if text is None else text.strip() or "(empty)"


def missing_answers_note(evaluation: Evaluation, rows: Sequence[MetricComparison]) -> Iterator[str]:
    """A sentence on why some of the rows have no generated answer; nothing if all have one."""
    count = sum(answer is not None for answer in evaluation.answers or ())
    if count and any(row.run_answer is None or row.base_answer is None for row in rows):
        yield f"Answers were generated for {count} of the {evaluation.rows} rows; --answers sets the number."


def labelled_facts(report: RunReport) -> Iterator[tuple[str, str]]:
    """(label, text) of each fact."""
    return ((FACT_LABELS.get(name, name), text) for name, text in report.facts.items())


def unchecked_note(report: RunReport) -> str:
    """What the audit left out; empty if it covered everything."""
    unchecked = UNAVAILABLE_DATA
    if report.audit is not None:
        unchecked = "; ".join(f"{name}: {why}" for name, why in report.audit.unchecked.items())
    return f"Not checked: {unchecked}" if unchecked else ""


def format_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


# Sections


def _side_effects(evaluation: Evaluation) -> list[str]:
    if not evaluation.effects:
        return []
    return [f"## {SIDE_EFFECTS_HEADING}", _table(ESTIMATE_COLUMNS, map(estimate_cells, evaluation.effects))]


def _baselines(evaluation: Evaluation) -> list[str]:
    notes = [f"- {name}: {why}" for name, why in evaluation.unasked.items()]
    if not evaluation.others:
        return notes
    heading = COMPARISON_HEADING.format(metric=metric_label(evaluation.verdict.metric or ""))
    return [f"## {heading}", _table(*baseline_table(evaluation)), INTERVALS_NOTE, *notes]


def _confusions(predictions: ClassPredictions | None) -> list[str]:
    if predictions is None:
        return []
    pairs = [[pair.right, pair.named, str(pair.rows)] for pair in predictions.confusions()]
    parts = [f"## {CONFUSIONS_HEADING}", _table(CONFUSION_COLUMNS, pairs)] if pairs else []
    error = predictions.calibration_error()
    return parts if error is None else [*parts, format_calibration_error(error)]


def format_calibration_error(error: float) -> str:
    return f"Expected calibration error: {error:.1%}."


def _audit(report: RunReport) -> list[str]:
    note = unchecked_note(report)
    if report.audit is None:
        return [note]
    rows = ([each.severity, each.kind, str(each.count), each.what] for each in report.audit.findings)
    columns = ["severity", "finding", "rows", "description"]
    findings = _table(columns, rows) if report.audit.findings else "No findings."
    return [f"## {AUDIT_HEADING}", findings, *([note] if note else [])]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text on one line, with pipes escaped: either would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")
