"""The result of `bottega evaluate`: metrics beside the base model, baselines, side effects, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

import bottega
from bottega.cli.console import table

OUTCOME_STYLES = {
    "better": "bold green",
    "not worse": "green",
    "inconclusive": "yellow",
    "worse": "bold red",
    "void": "bold red",
}
FINDINGS = {"better": "[green]better[/]", "worse": "[red]worse[/]", "inconclusive": "[yellow]inconclusive[/]"}

DIFFERENCE = "difference (95 % CI)"

# Below this width, in characters, the numbers of a row do not fit side by side.
NARROW_WIDTH = 64


def show_evaluation(evaluation: bottega.Evaluation, console: Console) -> None:
    """Print what was measured, what it was compared with, and the verdict."""
    head = ["metric", "run", "base" if evaluation.base else "", DIFFERENCE, "finding", "rows"]
    for title, estimates in (
        (f"{evaluation.run} on {evaluation.rows} of {evaluation.of} rows", evaluation.estimates),
        ("Side effects", evaluation.effects),
    ):
        if estimates:
            rows = (
                [estimate.label, *estimate.formatted(), format_finding(estimate), str(estimate.rows)]
                for estimate in estimates
            )
            _print_comparison(title, head, rows, console)
    _show_baselines(evaluation, console)
    console.print(Text(evaluation.verdict.sentence, OUTCOME_STYLES[evaluation.verdict.outcome]))
    base = evaluation.base or "none, the run was trained from scratch"
    console.print(f"base: {base}", style="dim", markup=False)
    if evaluation.spread():
        console.print(evaluation.spread())
    for note in _notes(evaluation):
        console.print(f"[yellow]note[/] {escape(note)}")


def format_finding(estimate: bottega.Estimate) -> str:
    """What a difference amounts to; empty only if there is nothing to compare with."""
    if estimate.finding is not None:
        return FINDINGS[estimate.finding]
    return "" if estimate.base is None else "too few rows" if estimate.interval is None else "neither"


def _show_baselines(evaluation: bottega.Evaluation, console: Console) -> None:
    """The run beside each baseline, by the metric that decides, or the closest one that both have."""
    metric = evaluation.verdict.metric
    pairs = [
        (baseline, estimate) for baseline in evaluation.contenders if (estimate := baseline.shared(metric)) is not None
    ]
    if not evaluation.others or not pairs:
        return
    rows = (
        [
            baseline.name + ("" if estimate.metric == metric else f", by {estimate.label}"),
            *estimate.formatted(),
            format_finding(estimate),
        ]
        for baseline, estimate in pairs
    )
    head = ["", "run", "baseline", DIFFERENCE, "finding"]
    _print_comparison(f"Comparison with baselines: {bottega.metric_label(metric or '')}", head, rows, console)


def _notes(evaluation: bottega.Evaluation) -> Iterator[str]:
    for name, reason in evaluation.unasked.items():
        yield f"{name}: {reason}"
    for reason, count in evaluation.dropped.items():
        yield f"{count} rows left out: {reason}"
    if evaluation.leaked is None:
        yield "not checked whether these rows are training rows: the training data is not available here"
    # A void verdict says so itself.
    elif evaluation.leaked and evaluation.verdict.outcome != "void":
        yield f"{evaluation.leaked} rows left out: they are also training rows"


def _print_comparison(title: str, head: list[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    """A table with a name and numbers in each row; on a narrow terminal, a line for each number."""
    if console.width >= NARROW_WIDTH:
        result = table(title, head, [])
        # Cells of findings contain markup, which `table` would escape.
        for name, *cells in rows:
            result.add_row(escape(name), *cells)
        console.print(result)
        return
    console.print(f"[bold]{escape(title)}[/]")
    for name, *cells in rows:
        console.print(escape(name))
        for column, cell in zip(head[1:], cells, strict=True):
            if cell:
                console.print(f"  {column.partition(' (')[0]:11}{cell}")
