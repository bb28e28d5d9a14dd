"""A run as it is looked at in a terminal: what it is, its curves, what it noted, what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotext
from rich.console import Console
from rich.text import Text

from bottega.cli.views import next_steps, table
from bottega.events import parse
from bottega.hardware.memory import in_words
from bottega.runs.curves import Curve, build_charts, peak_memory
from bottega.runs.store import history
from bottega.runs.summary import summary

HEIGHT, WIDEST = 18, 110

MARKERS = ("braille", "dot")
MARKS = {"braille": "⠒", "dot": "•"}
"""How the first curve of a drawing and the second are drawn, so that they differ without colours too."""


def show_run(folder: Path, console: Console) -> None:
    """Print all there is to see of the run in `folder`."""
    found, events = summary(folder), history(folder)
    started = next((event for event in events if event["type"] == "started"), {})
    console.print(table(f"{folder}", ["", ""], _facts(found, started, events)))
    for title, curves in build_charts(list(map(parse, events))).items():
        console.print(Text.from_ansi(drawn(title, curves, min(console.width, WIDEST))))
    for event in events:
        if event["type"] in ("noted", "failed"):
            details = "".join(f"\n    {count} × {reason}" for reason, count in event.get("details", {}).items())
            word = ("note ", "yellow") if event["type"] == "noted" else ("failed ", "red")
            console.print(Text.assemble(word, f"{event['message']}{details}"))
    if found["verdict"] is not None:
        console.print(Text.assemble(("\nverdict ", "bold"), found["verdict"]))
    result = [f"the result: {folder}/{found['result']}"] if found["result"] else []
    console.print("\n" + "\n".join([*result, *next_steps(folder)]), markup=False, soft_wrap=True)


def drawn(title: str, curves: Mapping[str, Curve], width: int) -> str:
    """The curves over the updates, as text with colours of the terminal."""
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, HEIGHT)
    figure.legend(False)  # wherever it lay in the drawing, some curve would end under it
    for (steps, values), marker in zip(curves.values(), MARKERS, strict=False):
        signal = figure.signal(list(steps), list(values), marker=marker)
        signal.lines()
        figure.draw(signal)
    names = "   ".join(f"{MARKS[marker]} {name}" for name, marker in zip(curves, MARKERS, strict=False))
    return f"{title}   {names if len(curves) > 1 else ''}".rstrip() + f"\n{figure.build()}"


def _facts(found: Mapping[str, Any], started: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Any]:
    """(what, value) of what there is to know in a line each."""
    stepped = [event for event in events if event["type"] == "stepped"]
    rows = [("status", f"{found['status']}, update {found['step']} of {found['steps'] or '?'}")]
    if started:
        trained = f"{started['trained_parameters']:,} of {started['parameters']:,} weights"
        rows += [("trained", trained), ("computed in", f"{started['dtype']} on {started['device']}")]
        rows += [("examples", f"{started['examples']:,}, {started['validation_examples']:,} for validation")]
    if stepped:
        seconds = sum(event["seconds"] for event in stepped)
        tokens = sum(event["tokens_real"] for event in stepped)
        shared = 1 - sum(event["tokens"] for event in stepped) / max(tokens, 1)
        rows += [("took", f"{_duration(seconds)}, {tokens / seconds:,.0f} tokens/s ({shared:.0%} of them shared)")]
        rows += [("memory", f"{in_words(*peak_memory(list(map(parse, events))))} at most")]
        rows += [("loss", f"{stepped[-1]['loss']:.4f}")]
    if found["validation_loss"] is not None:
        metrics = "".join(f", {name} {value:.3f}" for name, value in found["metrics"].items())
        rows += [("validation loss", f"{found['validation_loss']:.4f}{metrics}")]
    return [*rows, ("last moved", time.strftime("%Y-%m-%d %H:%M", time.localtime(found["time"])))]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
