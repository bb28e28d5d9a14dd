"""A run in the terminal: what it is, its curves, its notes, and what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import plotext
from rich.console import Console
from rich.text import Text

import bottega
from bottega.cli.console import format_memory, table

# Size of a chart, in characters; the width is less on a narrow terminal.
CHART_HEIGHT, MAX_CHART_WIDTH = 18, 110

# How the first and the second curve of a chart are drawn, to differ without colors too: plotext's name → the legend.
MARKERS = {"braille": "⠒", "dot": "•"}


def show_run(run: bottega.RunOverview, console: Console) -> None:
    """Print all there is to see of a run."""
    console.print(table(f"{run.folder}", ["", ""], _facts(run)))
    for title, curves in run.charts.items():
        console.print(Text.from_ansi(draw_chart(title, curves, min(console.width, MAX_CHART_WIDTH))))
    for event in run.notes:
        label, details = ("failed ", "red"), ""
        if isinstance(event, bottega.Noted):
            label = ("note ", "yellow")
            details = "".join(f"\n    {count} × {reason}" for reason, count in event.details.items())
        console.print(Text.assemble(label, f"{event.message}{details}"))
    if run.summary["verdict"] is not None:
        console.print(Text.assemble(("\nverdict ", "bold"), run.summary["verdict"]))
    result = [f"the result: {run.folder}/{run.summary['result']}"] if run.summary["result"] else []
    console.print("\n" + "\n".join([*result, *map(str, run.next_steps)]), markup=False, soft_wrap=True)


def draw_chart(title: str, curves: Mapping[str, bottega.Curve], width: int) -> str:
    """Curves over the updates, as text with ANSI colors."""
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, CHART_HEIGHT)
    # plotext draws its legend inside the plot, where it hides curves: the title names them instead.
    figure.legend(False)
    for (steps, values), marker in zip(curves.values(), MARKERS, strict=False):
        signal = figure.signal(list(steps), list(values), marker=marker)
        signal.lines()
        figure.draw(signal)
    legend = "   ".join(f"{sign} {name}" for name, sign in zip(curves, MARKERS.values(), strict=False))
    return f"{title}   {legend if len(curves) > 1 else ''}".rstrip() + f"\n{figure.build()}"


def _facts(run: bottega.RunOverview) -> Iterator[tuple[str, str]]:
    """(name, value) of each fact that is known."""
    state, started = run.summary, run.started
    yield "status", f"{state['status']}, update {state['step']} of {state['steps'] or '?'}"
    if started is not None:
        yield "trained", f"{started.trained_parameters:,} of {started.parameters:,} weights"
        yield "computed in", f"{started.dtype} on {started.device}"
        yield "examples", f"{started.examples:,}, {started.validation_examples:,} for validation"
    if run.updates:
        speed = "" if run.tokens_per_second is None else f", {run.tokens_per_second:,.0f} tokens/s"
        yield "training time", f"{_duration(run.seconds)}{speed} ({run.shared_fraction:.0%} of them shared)"
        yield "peak memory", format_memory(*run.peak_memory)
        yield "loss", f"{run.updates[-1].loss:.4f}"
    if state["validation_loss"] is not None:
        metrics = "".join(f", {name} {value:.3f}" for name, value in state["metrics"].items())
        yield "validation loss", f"{state['validation_loss']:.4f}{metrics}"
    yield "last event", time.strftime("%Y-%m-%d %H:%M", time.localtime(state["time"]))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
