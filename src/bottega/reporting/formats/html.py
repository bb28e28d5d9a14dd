"""A report as a single HTML page: no scripts, no external files, light or dark with the theme of the system."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import ClassVar

from bottega.evaluation.confusion import MAX_MATRIX_CLASSES, ClassPredictions
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.reporting.charts import baseline_chart, interval_chart, line_chart, thin_curve
from bottega.reporting.formats import ReportFormat
from bottega.reporting.formats.md import (
    AUDIT_HEADING,
    COMPARISON_HEADING,
    COMPONENT_COLUMNS,
    COMPONENTS_HEADING,
    CONFUSION_COLUMNS,
    CONFUSIONS_HEADING,
    COST_COLUMNS,
    COSTS_NOTE,
    DIFFERENCE,
    INTERVALS_NOTE,
    REPRODUCE_HEADING,
    RUN_HEADING,
    SIDE_EFFECTS_HEADING,
    baseline_table,
    comparison_table,
    describe_finding,
    excluded_rows,
    format_calibration_error,
    format_scope,
    format_versions,
    labelled_facts,
    missing_answers_note,
    unchecked_note,
)
from bottega.reporting.model import RunReport

# The column that shows the interval as a chart.
CHART_COLUMN = "worse | better"

NUMBER = re.compile(r"[-+]?[\d.,]+%?")

CALIBRATION_COLUMNS = ("mean confidence", "accuracy", "rows")

# Columns that are aligned to the right, even where a cell holds no plain number.
NUMERIC_COLUMNS = (
    *("run", "base", "baseline", "difference", DIFFERENCE, "rows", "update"),
    *COST_COLUMNS,
    *CALIBRATION_COLUMNS,
)

# Letters up to which a word is kept in one piece. A longer one would hold its column open, and may be broken.
MAX_WORD_LENGTH = 18

# On narrow screens tables with class `cards` become one card per row; each cell shows its column's name (data-name).
STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --dim: #6b6b71; --line: #d8d8dc; --back: #fff; --soft: #f5f5f7;
  --good: #14804a; --bad: #c0392b; --doubt: #a56a00; --one: #d2541b; --two: #2463b4; --three: #14804a; }
@media (prefers-color-scheme: dark) { :root { --text: #ececf0; --dim: #9a9aa2; --line: #3a3a40; --back: #17171a;
  --soft: #222226; --good: #4cc38a; --bad: #ff8a7a; --doubt: #f0b54a; --one: #ff9a66; --two: #7db3ff;
  --three: #4cc38a; } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
.verdict { font-size: 1.25rem; padding: 1rem 1.2rem; border-left: 6px solid; background: var(--soft) }
.better, .not-worse { border-color: var(--good) } .worse, .void { border-color: var(--bad) }
.inconclusive { border-color: var(--doubt) }
.table { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
tbody th { min-width: 8rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.whole { white-space: nowrap }
svg.interval { width: 9rem; display: block }
.bars { margin-bottom: 1rem }
.bars > div { display: grid; grid-template-columns: 16rem 1fr 4rem; gap: .2rem .8rem; margin: .3rem 0;
  align-items: center; font-size: .92rem }
.bars span:last-child { text-align: right; font-variant-numeric: tabular-nums }
.track { position: relative; height: 1.2rem } .track i { display: block; height: 100%; opacity: .75 }
.track b { position: absolute; top: 30%; height: 40%; border: solid var(--text); border-width: 0 1.5px;
  background: linear-gradient(var(--text), var(--text)) center / 100% 1.5px no-repeat }
.curves { display: grid; grid-template-columns: auto 1fr; gap: .2rem .5rem; margin: 0; font-size: .8rem }
.curves figcaption, .updates { grid-column: 2; display: flex; gap: 1.2rem }
.ends { display: flex; flex-direction: column; justify-content: space-between; text-align: right; color: var(--dim) }
.updates { justify-content: space-between; color: var(--dim) }
.curves svg { width: 100%; height: 13rem; border: solid var(--dim); border-width: 0 0 1px 1px }
polyline { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
.dim { color: var(--dim) }
pre { background: var(--soft); padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere }
details { margin: .5rem 0 } summary { cursor: pointer; color: var(--dim) }
@media screen and (max-width: 44rem) {
  .bars > div { grid-template-columns: 1fr 4rem } .bars span:first-child { grid-column: 1 / 3 }
  .cards thead { display: none } .cards tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line) }
  .cards th, .cards td, .cards td.number { display: block; border: 0; padding: .1rem 0; text-align: left;
    white-space: normal }
  .cards td[data-name] { position: relative; padding-left: 8rem; min-height: 1.5em }
  .cards [data-name]::before { content: attr(data-name); color: var(--dim); position: absolute; left: 0; width: 7.5rem }
  .cards td:empty { display: none }
}
@media print {
  @page { margin: 14mm }
  :root { --text: #000; --dim: #555; --line: #bbb; --back: #fff; --soft: #f2f2f2; --good: #14804a; --bad: #c0392b;
    --doubt: #a56a00; --one: #d2541b; --two: #2463b4; --three: #14804a; color-scheme: light }
  body { max-width: none; margin: 0; padding: 0; font-size: 10pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact }
  .verdict { font-size: 12pt } table, .bars > div { font-size: 8pt } th, td { padding: .15rem .3rem }
  .table { overflow: visible } p:last-child { break-before: avoid }
  svg.interval { width: 5rem } .curves svg { height: 9rem } details { display: none }
  h2, h3 { break-after: avoid } thead { display: table-header-group }
  tr, li, .curves, .bars, .verdict { break-inside: avoid }
}
"""


class HtmlReport(ReportFormat):
    """A single file that opens offline, prints, and follows the theme of the system."""

    rank: ClassVar[int] = 3

    def render(self, report: RunReport) -> str:
        return render_html(report)


def render_html(report: RunReport) -> str:
    """The whole page."""
    title = escape(f"{report.name}: {report.evaluation.verdict.outcome}")
    meta = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head = f"<head>{meta}<style>{STYLE}</style></head>"
    body = "\n".join([*_result(report), *_details(report)])
    return f'<!doctype html>\n<html lang="en">\n{head}\n<body>\n{body}\n</body></html>\n'


def _result(report: RunReport) -> Iterator[str]:
    """Verdict, metrics, baselines, side effects and curves: how good the run is."""
    evaluation = report.evaluation
    outcome = evaluation.verdict.outcome.replace(" ", "-")  # as a CSS class
    yield f"<h1>{escape(report.name)}</h1>"
    yield f'<p class="verdict {outcome}"><strong>{escape(evaluation.verdict.sentence)}</strong></p>'
    yield f'<p class="dim">{_verdict_rule(report)} {escape(format_scope(evaluation))}</p>'
    yield _estimate_table(evaluation.estimates)
    for reason, count in excluded_rows(report).items():
        yield f"<p>{count} rows excluded: {escape(reason)}.</p>"
    yield from _baselines(evaluation)
    if evaluation.spread():
        yield f"<p>{escape(evaluation.spread())}</p>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in report.cost_summary)
    if evaluation.effects:
        yield f"<h2>{SIDE_EFFECTS_HEADING}</h2>"
        yield _estimate_table(evaluation.effects)
    yield from _curves(report)
    yield from (f"<p>{escape(sentence)}</p>" for sentence in report.loss_summary)
    yield from _classes(evaluation.predictions)


def _details(report: RunReport) -> Iterator[str]:
    """What was trained, single rows, the training data, and how to reproduce the run."""
    yield f"<h2>{RUN_HEADING}</h2>"
    yield _table([], labelled_facts(report))
    yield from _ranked_rows(report)
    yield f"<h2>{COMPONENTS_HEADING}</h2>"
    yield _table(COMPONENT_COLUMNS, report.components)
    yield from _audit(report)
    yield from _notes(report.notes)
    yield f"<h2>{REPRODUCE_HEADING}</h2>"
    yield f"<pre>{escape(report.command)}</pre>"
    yield f"<pre>{escape(report.recipe.rstrip())}</pre>"
    yield _table(["file", "SHA-256 (start)"], report.files.items())
    yield f'<p class="dim">{escape(format_versions(report.versions))}</p>'


def _verdict_rule(report: RunReport) -> str:
    """The metric and the margin of the verdict, in a sentence; empty without a metric."""
    verdict = report.evaluation.verdict
    if verdict.metric is None:
        return ""
    margin = f" with a margin of {verdict.margin:g}" if verdict.margin else ""
    # Whoever chooses the metric after seeing all of them can always find one that looks good.
    declared = ", as declared in the recipe before the evaluation" if verdict.declared else "; the recipe declares none"
    return f"Verdict by {escape(metric_label(verdict.metric))}{margin}{declared}."


def _estimate_table(estimates: Sequence[Estimate]) -> str:
    columns = ("metric", "run", "base", DIFFERENCE, CHART_COLUMN, "finding", "rows")
    lines = []
    for estimate in estimates:
        named_values = zip(("run", "base", "difference"), estimate.formatted(), strict=True)
        values = "".join(_cell(text, name) for name, text in named_values)
        chart = f'<td data-name="{CHART_COLUMN}">{interval_chart(estimate)}</td>' if estimate.gain else "<td></td>"
        finding = _cell(describe_finding(estimate), "finding") + _cell(str(estimate.rows), "rows")
        lines.append(f'<tr><th scope="row">{escape(estimate.label)}</th>{values}{chart}{finding}</tr>')
    return _frame("".join(map(_header, columns)), lines)


def _baselines(evaluation: Evaluation) -> Iterable[str]:
    """All baselines by the deciding metric, as a chart and as a table, and those that could not be evaluated."""
    metric = evaluation.verdict.metric
    if evaluation.others and metric is not None:
        yield f"<h2>{escape(COMPARISON_HEADING.format(metric=metric_label(metric)))}</h2>"
        estimates = {each.name: estimate for each in evaluation.contenders if (estimate := each.estimate(metric))}
        if estimates:
            # The run's value is the same in each of them.
            yield baseline_chart(metric_label(metric), next(estimate.run for estimate in estimates.values()), estimates)
        yield _table(*baseline_table(evaluation))
        yield f'<p class="dim">{INTERVALS_NOTE} {COSTS_NOTE if evaluation.cost else ""}</p>'
    for name, why in evaluation.unasked.items():
        yield f'<p class="dim">{escape(name)}: {escape(why)}</p>'


def _curves(report: RunReport) -> Iterable[str]:
    if report.curves:
        yield "<h2>Curves</h2>"
    for title, curves in report.curves.items():
        yield f"<h3>{escape(title)}</h3>{line_chart(title, curves)}"
        points = ((name, *point) for name, curve in curves.items() for point in thin_curve(curve))
        rows = [(name, f"{step:,.0f}", f"{value:.4g}") for name, step, value in points]
        yield f"<details><summary>as a table</summary>{_table(['', 'update', title], rows)}</details>"


def _classes(predictions: ClassPredictions | None) -> Iterable[str]:
    """The confusion matrix, or of many classes the most frequent confusions; and the calibration."""
    if predictions is None:
        return
    if len(predictions.labels) <= MAX_MATRIX_CLASSES:
        yield "<h2>Confusion matrix</h2>"
        yield "<p class='dim'>Rows are reference classes, columns predicted classes by their numbers.</p>"
        yield _confusion_matrix(predictions)
    elif confusions := predictions.confusions():
        yield f"<h2>{CONFUSIONS_HEADING}</h2>"
        yield _table(CONFUSION_COLUMNS, ((pair.right, pair.named, str(pair.rows)) for pair in confusions))
    error = predictions.calibration_error()
    if error is not None:
        yield f"<h2>Calibration</h2><p>{format_calibration_error(error)}</p>"
        bins = ((f"{each.chance:.1%}", f"{each.accuracy:.1%}", str(each.rows)) for each in predictions.calibration())
        yield _table(CALIBRATION_COLUMNS, bins)


def _confusion_matrix(predictions: ClassPredictions) -> str:
    """A shaded table. Columns are headed by numbers instead of names, which would be too wide."""
    counts = predictions.matrix()  # [C, C]
    largest = max(int(counts.max()), 1)
    header = "".join(_header(str(number)) for number in range(1, len(predictions.labels) + 1))
    lines = []
    for number, (label, row) in enumerate(zip(predictions.labels, counts, strict=True), 1):
        cells = "".join(_shaded_cell(int(count), largest) for count in row)
        lines.append(f'<tr><th scope="row">{number} · {_breakable(label)}</th>{cells}</tr>')
    return _frame(_header("") + header, lines, cards=False)


def _shaded_cell(count: int, largest: int) -> str:
    # At most 70 %, so that the number on it stays legible in both themes.
    shade = f"color-mix(in srgb, var(--two) {70 * count // largest}%, transparent)"
    return f'<td class="number" style="background: {shade}">{count}</td>'


def _audit(report: RunReport) -> Iterable[str]:
    note = f'<p class="dim">{escape(unchecked_note(report))}</p>' if unchecked_note(report) else ""
    if report.audit is None:
        yield note
        return
    yield f"<h2>{AUDIT_HEADING}</h2>"
    if not report.audit.findings:
        yield "<p>No findings.</p>"
    else:
        rows = (
            (finding.severity, finding.kind, str(finding.count), finding.what, "; ".join(finding.examples[:3]))
            for finding in report.audit.findings
        )
        yield _table(["severity", "finding", "rows", "description", "examples"], rows)
    yield note


def _ranked_rows(report: RunReport) -> Iterable[str]:
    for title, rows in report.ranked_rows:
        yield f"<h2>{escape(title)}</h2>"
        yield _table(*comparison_table(rows))
        yield from (f'<p class="dim">{escape(note)}</p>' for note in missing_answers_note(report.evaluation, rows))


def _notes(notes: Sequence[str]) -> Iterable[str]:
    if notes:
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text. If the first column has no name, its cells are row headers."""
    lines = []
    for first, *others in rows:
        header = _cell(first, columns[0]) if columns and columns[0] else f'<th scope="row">{_breakable(first)}</th>'
        # Without columns there is one cell beside the header, without a name.
        lines.append(f"<tr>{header}{''.join(map(_cell, others, columns[1:] or ['']))}</tr>")
    return _frame("".join(map(_header, columns)), lines)


def _frame(header: str, lines: Iterable[str], *, cards: bool = True) -> str:
    """A table in a box that scrolls if it is too wide; with `cards`, narrow screens show each row as a card."""
    top = f"<thead><tr>{header}</tr></thead>" if header else ""
    css_class = "table cards" if cards else "table"
    return f'<div class="{css_class}"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def _header(name: str) -> str:
    numeric = name in NUMERIC_COLUMNS or name.isdecimal()
    return f"<th{' class=number' if numeric else ''}>{escape(name)}</th>"


def _cell(text: str, column: str = "") -> str:
    """A cell; on a card it shows the name of its column. Empty cells have no name, and are hidden there."""
    css_class = ' class="number"' if NUMBER.fullmatch(text) or column in NUMERIC_COLUMNS else ""
    name = f' data-name="{escape(column)}"' if column and text else ""
    return f"<td{css_class}{name}>{_breakable(text)}</td>"


def _breakable(text: str) -> str:
    """Escaped text whose longest words may be broken, at punctuation if possible."""
    return "".join(
        _keep_whole(part) if len(part) <= MAX_WORD_LENGTH else _break_word(part) for part in re.split(r"(\s+)", text)
    )


def _keep_whole(word: str) -> str:
    """A word that stays on one line; browsers would break it after a hyphen (ROUGE-L)."""
    return f"<span class=whole>{escape(word)}</span>" if "-" in word else escape(word)


def _break_word(word: str) -> str:
    # Split before escaping: a break within an entity such as &amp; would destroy it.
    pieces = re.findall(rf"[^_/.,:;-]{{1,{MAX_WORD_LENGTH}}}[_/.,:;-]?|.", word)
    return "<wbr/>".join(map(escape, pieces))
