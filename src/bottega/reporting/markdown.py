"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation
from bottega.metrics.catalog import metric_label
from bottega.reporting.model import Compared, Report


def markdown(report: Report) -> str:
    """The whole report; texts of rows are on one line each."""
    found = report.evaluation
    parts = [
        f"# {report.name}",
        f"**{found.verdict.sentence}**",
        f"Measured on {found.rows} of {found.of} rows, beside {found.base or 'nothing: it began from nothing'}.",
        _table(["", "run", "before", "difference, 95 %", "finding", "rows"], map(_estimate, found.estimates)),
        *(f"- {count} rows left out: {reason}" for reason, count in left_out(report).items()),
        *_contenders(found),
        *([found.spread()] if found.spread() else []),
        *report.worth,
        *_effects(found),
        *report.fit,
        *_classes(found.predictions),
        "## The run",
        _table(["", ""], ([name, text] for name, text in report.facts.items())),
    ]
    for title, rows in report.extremes:
        parts += [f"## {title}", _rows(rows), *unwritten(found, rows)]
    parts += [
        *_audit(report),
        "## Made of",
        _table(["", "", "licence"], report.parts),
        *(["## Notes", *(f"- {note}" for note in report.notes)] if report.notes else []),
        "## To repeat it",
        f"    {report.command}",
        f"```yaml\n{report.recipe.rstrip()}\n```",
        _table(["file", "SHA-256"], report.files.items()),
        ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    ]
    return "\n\n".join(parts) + "\n"


GONE = "the rows it learned from, and whether it was measured on them: they are not to be had here."


def _effects(found: Evaluation) -> list[str]:
    """What the run changed besides."""
    if not found.effects:
        return []
    head = ["", "run", "before", "difference, 95 %", "finding", "rows"]
    return ["## Side effects", _table(head, map(_estimate, found.effects))]


def _contenders(found: Evaluation) -> list[str]:
    """Every contender by the number that decides, and what an answer takes."""
    notes = [f"- {name}: {why}" for name, why in found.unasked.items()]
    if not found.others:
        return notes
    title = f"## {metric_label(found.verdict.metric or '')}, beside what else could be done"
    return [title, _table(*contender_rows(found)), TOGETHER, *notes]


def contender_rows(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """A table of every contender by the number that decides, and of what an answer takes: its head, and its rows."""
    rows, costs = [], any([found.cost, *(one.cost for one in found.contenders)])
    for one in found.contenders:
        same = one.shared(found.verdict.metric)
        numbers = ("no number that both have", "", "", "") if same is None else (*same.formatted(), found_of(same))
        other = "" if same is None or same.metric == found.verdict.metric else f", by {same.label}"
        rows.append([f"{one.name}{other}", *numbers, *(_costs(one.cost) if costs else [])])
    if costs:
        rows.append(["the run", "", "", "", "", *_costs(found.cost)])
    return ["", "run", "its", "difference", "finding", *(["tokens read", "written", "seconds"] if costs else [])], rows


def found_of(one: Estimate) -> str:
    """Whether the run is better by a number; or why that is not said."""
    if one.finding is not None or one.base is None:
        return one.finding or ""
    return "too few rows" if one.interval is None else "neither way is better"


def unwritten(found: Evaluation, rows: Sequence[Compared]) -> Iterator[str]:
    """Why answers of some rows are not there, in a sentence."""
    count = sum(text is not None for text in found.answers or ())
    if count and any(one.said is None or one.said_before is None for one in rows):
        yield f"Answers are written out for {count} of the {found.rows} rows; --answers asks for more."


TOGETHER = "Each interval is wide enough that all of them together are right 95 times out of 100."
COSTS = "Tokens and seconds are those of an answer that is written out; a dash stands where none is."


def _costs(cost: Cost | None) -> list[str]:
    """What an answer takes, in tokens and seconds; dashes for one that writes none."""
    return ["–", "–", "–"] if cost is None else [f"{cost.read:.0f}", f"{cost.written:.0f}", f"{cost.seconds:.3f}"]


def _classes(named: ClassPredictions | None) -> list[str]:
    if named is None:
        return []
    mixed = ([one.right, one.named, str(one.rows)] for one in named.confusions())
    found = ["## Classes that are mixed up most", _table(["right", "said", "rows"], mixed)]
    error = named.calibration_error()
    return found if error is None else [*found, f"Its chances are off by {error:.1%} on average."]


def _audit(report: Report) -> list[str]:
    if report.audit is None:
        return [f"Not checked: {GONE}"]
    rows = ([one.severity, one.kind, str(one.count), one.what] for one in report.audit.findings)
    found = _table(["", "", "rows", ""], rows) if report.audit.findings else "Nothing was found."
    left = "; ".join(f"{name}: {why}" for name, why in report.audit.unchecked.items())
    return ["## The rows it learned from", found, *([f"Not checked: {left}"] if left else [])]


def left_out(report: Report) -> dict[str, int]:
    """Rows that were not measured, by reason."""
    found = report.evaluation
    leaked = {"they stand in the training rows": found.leaked or 0} if found.verdict.outcome != "void" else {}
    return {reason: count for reason, count in {**found.dropped, **leaked}.items() if count}


def _estimate(one: Estimate) -> list[str]:
    return [one.label, *one.formatted(), found_of(one), str(one.rows)]


def _rows(rows: Sequence[Compared]) -> str:
    return _table(*compared_rows(rows))


def compared_rows(rows: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """A table of rows side by side, with what was written where anything was: its head, and its rows."""
    wrote = any(one.said or one.said_before for one in rows)
    head = ["row", "asked", "right", *(["the run wrote", "the base wrote"] if wrote else []), "run", "before"]
    cells = []
    for one in rows:
        said = [_said(one.said), _said(one.said_before)] if wrote else []
        cells.append([one.where, one.asked, one.answer, *said, f"{one.run:.3f}", f"{one.base:.3f}"])
    return head, cells


def _said(text: str | None) -> str:
    return "(not written out)" if text is None else text.strip() or "(it wrote nothing)"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
