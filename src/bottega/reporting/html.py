"""A report as one page of HTML: no script, nothing fetched; light or dark as the reader's machine is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from bottega.evaluation.confusion import MAX_MATRIX_CLASSES, ClassPredictions
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.reporting.charts import contenders, curves, interval, thinned
from bottega.reporting.markdown import (
    COSTS,
    GONE,
    TOGETHER,
    compared_rows,
    contender_rows,
    found_of,
    left_out,
    unwritten,
)
from bottega.reporting.model import Report

DIFFERENCE, DRAWN = "difference, 95 %", "worse | better"
NUMBER = re.compile(r"[-+]?[\d.,]+%?")
NUMBERS = (
    "run",
    "before",
    "its",
    "difference",
    "difference, 95 %",
    "rows",
    "tokens read",
    "written",
    "seconds",
    "update",
)
"""Heads of columns that stand to the right, as numbers do."""

LONGEST = 18
"""Letters of a word that a column holds in one piece."""

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
        *_classes(found.predictions),
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
    return f"Decided by {escape(metric_label(verdict.metric))}{margin}{declared}."


def _estimates(estimates: Sequence[Estimate]) -> str:
    head = map(_th, ("", "run", "before", DIFFERENCE, DRAWN, "finding", "rows"))
    lines = []
    for one in estimates:
        named = zip(("run", "before", "difference"), one.formatted(), strict=True)
        numbers = "".join(_cell(text, name) for name, text in named)
        drawn = f'<td data-name="{DRAWN}">{interval(one)}</td>' if one.gain else "<td></td>"
        found = f"{drawn}{_cell(found_of(one), 'finding')}{_cell(str(one.rows), 'rows')}"
        lines.append(f'<tr><th scope="row">{escape(one.label)}</th>{numbers}{found}</tr>')
    return _framed("".join(head), lines)


def _contenders(found: Evaluation) -> Iterable[str]:
    """Every contender by the number that decides, as bars and as a table, and what an answer takes."""
    metric = found.verdict.metric
    beside = {one.name: same for one in found.contenders if (same := one.estimate(metric)) is not None}
    if found.others and metric is not None:
        yield f"<h2>{escape(metric_label(metric))}, beside what else could be done</h2>"
        if beside:
            yield contenders(metric_label(metric), next(one.run for one in beside.values()), beside)
        yield _table(*contender_rows(found))
        yield f'<p class="dim">{TOGETHER} {COSTS if found.cost else ""}</p>'
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


def _classes(named: ClassPredictions | None) -> Iterable[str]:
    """Which classes are taken for which: all pairs of a few, the worst of many; and whether chances come true."""
    if named is None:
        return
    if len(named.labels) <= MAX_MATRIX_CLASSES:
        yield "<h2>What was said of each class</h2>"
        yield "<p class='dim'>Rows are what is right; columns, by the numbers of the classes, what was said.</p>"
        yield _matrix(named)
    elif mixed := named.confusions():
        yield "<h2>Classes that are mixed up most</h2>"
        yield _table(["right", "said", "rows"], ((one.right, one.named, str(one.rows)) for one in mixed))
    error = named.calibration_error()
    if error is not None:
        yield f"<h2>Does it know how sure it is</h2><p>Its chances are off by {error:.1%} on average.</p>"
        bins = ((f"{one.chance:.1%}", f"{one.accuracy:.1%}", str(one.rows)) for one in named.calibration())
        yield _table(["it said", "came true", "rows"], bins)


def _matrix(named: ClassPredictions) -> str:
    """How often each class was taken for each; columns are headed by numbers, so that any names fit."""
    counts = named.matrix()
    most = max(int(counts.max()), 1)
    head = "".join(_th(str(number)) for number in range(1, len(named.labels) + 1))
    lines = [
        f'<tr><th scope="row">{number} · {_breakable(label)}</th>{"".join(_shaded(int(one), most) for one in row)}</tr>'
        for number, (label, row) in enumerate(zip(named.labels, counts, strict=True), 1)
    ]
    return _framed(_th("") + head, lines, cards=False)


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
        yield from (f'<p class="dim">{escape(why)}</p>' for why in unwritten(report.evaluation, rows))


def _notes(notes: Sequence[str]) -> Iterable[str]:
    if notes:
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; where the first column has no head, its cells are the names of the rows."""
    lines = []
    for first, *others in rows:
        named = _cell(first, head[0]) if head and head[0] else f'<th scope="row">{_breakable(first)}</th>'
        lines.append(f"<tr>{named}{''.join(map(_cell, others, head[1:] or ['']))}</tr>")
    return _framed("".join(map(_th, head)), lines)


def _framed(head: str, lines: Iterable[str], *, cards: bool = True) -> str:
    """Rows in a box of their own that scrolls where it must; on a narrow screen each becomes a card, or scrolls."""
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    kind = "table cards" if cards else "table"
    return f'<div class="{kind}"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def _th(name: str) -> str:
    numbers = name in NUMBERS or name.isdecimal()
    return f"<th{' class=number' if numbers else ''}>{escape(name)}</th>"


def _cell(text: str, name: str = "") -> str:
    """A cell; on a card it says what it is of."""
    kind = ' class="number"' if NUMBER.fullmatch(text) or name in NUMBERS else ""
    named = f' data-name="{escape(name)}"' if name and text else ""
    return f"<td{kind}{named}>{_breakable(text)}</td>"


def _breakable(text: str) -> str:
    """Text that may be broken within its longest words, at signs first: nothing else would hold them in a column."""
    return "".join(_whole(part) if len(part) <= LONGEST else _parted(part) for part in re.split(r"(\s+)", text))


def _whole(word: str) -> str:
    """A word that stays in one line, which browsers else break behind a hyphen: ROUGE-L."""
    return f"<span class=whole>{escape(word)}</span>" if "-" in word else escape(word)


def _parted(word: str) -> str:
    pieces = re.findall(rf"[^_/.,:;-]{{1,{LONGEST}}}[_/.,:;-]?|.", word)
    return "<wbr/>".join(map(escape, pieces))
