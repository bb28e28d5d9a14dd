"""A report as one page of HTML: no script, nothing fetched; light or dark as the reader's machine is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from bottega.evaluation.classes import LARGEST, Named
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.measure import Evaluation
from bottega.reporting.charts import contenders, curves, interval, thinned
from bottega.reporting.markdown import GONE, TOGETHER, compared_rows, contender_rows, left_out
from bottega.reporting.value import Report

NUMBER = re.compile(r"[-+]?[\d.,]+%?")

STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --dim: #77777d; --line: #d8d8dc; --back: #fff; --soft: #f5f5f7;
  --good: #14804a; --bad: #c0392b; --doubt: #a56a00; --one: #d2541b; --two: #2463b4; --three: #14804a; }
@media (prefers-color-scheme: dark) { :root { --text: #ececf0; --dim: #9a9aa2; --line: #3a3a40; --back: #17171a;
  --soft: #222226; --good: #4cc38a; --bad: #ff8a7a; --doubt: #f0b54a; --one: #ff9a66; --two: #7db3ff;
  --three: #4cc38a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
.verdict { font-size: 1.25rem; padding: 1rem 1.2rem; border-left: 6px solid; background: var(--soft); }
.better, .not-worse { border-color: var(--good) } .worse, .void { border-color: var(--bad) }
.inconclusive { border-color: var(--doubt) }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere }
th { white-space: nowrap }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
svg text { font: 12px system-ui, sans-serif } svg.curves { width: 100%; height: auto } svg.interval { width: 12rem }
.dim { color: var(--dim) } pre { background: var(--soft); padding: 1rem; overflow-x: auto; white-space: pre-wrap }
details { margin: .5rem 0 } summary { cursor: pointer; color: var(--dim) }
@media print { body { max-width: none; margin: 0; font-size: 11pt } details { display: none } h2 { break-after: avoid }
  tr, svg, .verdict { break-inside: avoid } }
"""


def page(report: Report) -> str:
    """The whole report."""
    found = report.evaluation
    outcome = found.verdict.outcome.replace(" ", "-")
    beside = f"beside {found.base}" if found.base else "with nothing before it"
    parts = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="verdict {outcome}"><strong>{escape(found.verdict.sentence)}</strong></p>',
        f'<p class="dim">{_declared(report)} Measured on {found.rows} of {found.of} rows, {escape(beside)}.</p>',
        _estimates(found.estimates),
        *(f"<p>{count} rows left out: {escape(reason)}.</p>" for reason, count in left_out(report).items()),
        *_contenders(found),
        *([f"<p>{escape(found.spread())}</p>"] if found.spread() else []),
        *(f"<p>{escape(said)}</p>" for said in report.worth),
        *(["<h2>Side effects</h2>", _estimates(found.effects)] if found.effects else []),
        *_curves(report),
        *(f"<p>{escape(said)}</p>" for said in report.fit),
        *_classes(found.named),
        "<h2>The run</h2>",
        _table([], report.facts.items()),
        *_rows(report),
        "<h2>Made of</h2>",
        _table(["", "", "licence"], report.parts),
        *_audit(report),
        *_notes(report.notes),
        "<h2>To repeat it</h2>",
        f"<pre>{escape(report.command)}</pre>",
        f"<pre>{escape(report.recipe.rstrip())}</pre>",
        _table(["file", "SHA-256 begins with"], report.files.items()),
        f'<p class="dim">{escape(", ".join(f"{name} {version}" for name, version in report.versions.items()))}</p>',
    ]
    title = escape(f"{report.name}: {found.verdict.outcome}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    head = f"<head>{head}<style>{STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">\n{head}\n<body>\n{body}\n</body></html>\n'


def _declared(report: Report) -> str:
    verdict = report.evaluation.verdict
    if verdict.metric is None:
        return ""
    margin = f" with a margin of {verdict.margin:g}" if verdict.margin else ""
    declared = ", as the recipe declared before the exam" if verdict.declared else "; the recipe named nothing"
    return f"Decided by {escape(verdict.metric)}{margin}{declared}."


def _estimates(estimates: Sequence[Estimate]) -> str:
    lines = []
    for one in estimates:
        numbers = "".join(f'<td class="number">{text}</td>' for text in one.written())
        lines.append(
            f"<tr><th>{escape(one.metric)}</th>{numbers}<td>{interval(one)}</td><td>{one.finding or ''}</td></tr>"
        )
    names = ("run", "before", "difference, 95 %")
    head = "<th></th>" + "".join(f'<th class="number">{name}</th>' for name in names)
    return f"<table><tr>{head}<th>worse | better</th><th></th></tr>{''.join(lines)}</table>"


def _contenders(found: Evaluation) -> Iterable[str]:
    """Every contender by the number that decides, as bars and as a table, and what an answer takes."""
    metric = found.verdict.metric
    beside = {one.name: same for one in found.contenders if (same := one.by(metric)) is not None}
    if found.others and metric is not None:
        yield f"<h2>{escape(metric)}, beside what else could be done</h2>"
        if beside:
            yield contenders(metric, next(one.run for one in beside.values()), beside)
        yield _table(*contender_rows(found))
        yield f'<p class="dim">{TOGETHER} Tokens and seconds are those of an answer that is written out.</p>'
    for name, why in found.unasked.items():
        yield f'<p class="dim">{escape(name)}: {escape(why)}</p>'


def _curves(report: Report) -> Iterable[str]:
    if report.curves:
        yield "<h2>Curves</h2>"
    for title, named in report.curves.items():
        yield f"<h3>{escape(title)}</h3>{curves(title, named)}"
        rows = [
            (name, f"{step:,.0f}", f"{value:.4g}") for name, curve in named.items() for step, value in thinned(curve)
        ]
        yield f"<details><summary>as a table</summary>{_table(['', 'update', title], rows)}</details>"


def _classes(named: Named | None) -> Iterable[str]:
    """Which classes are taken for which: all pairs of a few, the worst of many; and whether chances come true."""
    if named is None:
        return
    if len(named.labels) <= LARGEST:
        yield "<h2>What was said of each class</h2><p class='dim'>Rows are what is right, columns what was said.</p>"
        matrix = named.matrix()
        most = max(int(matrix.max()), 1)
        head = "<th></th>" + "".join(f"<th>{escape(label)}</th>" for label in named.labels)
        lines = "".join(
            f"<tr><th>{escape(label)}</th>{''.join(_shaded(int(count), most) for count in row)}</tr>"
            for label, row in zip(named.labels, matrix, strict=True)
        )
        yield f"<table><tr>{head}</tr>{lines}</table>"
    elif mixed := named.confusions():
        yield "<h2>Classes that are mixed up most</h2>"
        yield _table(["right", "said", "rows"], ((one.right, one.named, str(one.rows)) for one in mixed))
    error = named.calibration_error()
    if error is not None:
        yield f"<h2>Does it know how sure it is</h2><p>Its chances are off by {error:.1%} on average.</p>"
        bins = ((f"{one.chance:.1%}", f"{one.accuracy:.1%}", str(one.rows)) for one in named.calibration())
        yield _table(["it said", "came true", "rows"], bins)


def _shaded(count: int, most: int) -> str:
    shade = f"color-mix(in srgb, var(--two) {70 * count // most}%, transparent)"
    return f'<td class="number" style="background: {shade}">{count}</td>'


def _audit(report: Report) -> Iterable[str]:
    if report.audit is None:
        yield f'<p class="dim">Not checked: {escape(GONE)}</p>'
        return
    yield "<h2>The rows it learned from</h2>"
    if not report.audit.findings:
        yield "<p>Nothing was found.</p>"
    else:
        findings = (
            (one.severity, one.kind, str(one.count), one.what, "; ".join(one.examples[:3]))
            for one in report.audit.findings
        )
        yield _table(["", "", "rows", "", "for example"], findings)
    left = "; ".join(f"{name}: {why}" for name, why in report.audit.unchecked.items())
    yield f'<p class="dim">Not checked: {escape(left)}</p>' if left else ""


def _rows(report: Report) -> Iterable[str]:
    for title, rows in report.extremes:
        yield f"<h2>{escape(title)}</h2>"
        yield _table(*compared_rows(rows))


def _notes(notes: Sequence[str]) -> Iterable[str]:
    if notes:
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>" if head else ""
    lines = ("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table>{top}{''.join(lines)}</table>"


def _cell(text: str) -> str:
    return f'<td class="number">{text}</td>' if NUMBER.fullmatch(text) else f"<td>{escape(text)}</td>"
