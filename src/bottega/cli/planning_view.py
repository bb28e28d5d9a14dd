"""The results of `bottega plan` and `bottega advise`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.text import Text

import bottega
from bottega.cli.console import format_duration, table

# Parts of the memory below this many bytes are not displayed.
SMALLEST_PART = 5e6

OUTCOME_STYLES = {"tune": "bold green", "don't": "bold red", "inconclusive": "bold yellow"}


def show_plan(plan: bottega.Plan, recipe: str, console: Console, *, preliminary: bool = False) -> None:
    """Print what a run will take, and whether it fits.

    preliminary  changes that make it fit have not all been tried
    """
    console.print(table(f"{recipe} on {plan.device}", ["", "takes"], _requirements(plan)))
    if not plan.measured:
        speed = "" if plan.seconds is None else "; its speed is from the datasheet"
        console.print(f"[yellow]note[/] estimated, not measured{speed}")
    if plan.fits:
        console.print(f"[green]It fits.[/] Run it: bottega train {escape(recipe)}", soft_wrap=True)
        return
    console.print("[bold red]It does not fit.[/]")
    for advice in plan.advice:
        console.print(f"with {escape(advice.change)} it takes {advice.memory / 1e9:.2f} GB, and fits:")
        console.print(f"    bottega train {escape(recipe)} {escape(advice.change)}", soft_wrap=True)
    if not plan.advice and not preliminary:
        console.print("No change that was tried makes it fit: use a smaller model, or shorter rows (data.max_length).")


def _requirements(plan: bottega.Plan) -> Iterator[tuple[str, str]]:
    for name, size in plan.parts.items():
        if size >= SMALLEST_PART:
            yield f"memory: {name}", _format_bytes(size)
    yield "memory, total", f"{plan.memory / 1e9:.2f} GB of {plan.limit / 1e9:.1f} GB"
    yield "updates", f"{plan.updates:,}"
    yield "tokens", f"{plan.tokens:,}, of which {plan.computed:,} are computed"
    yield "disk", _format_bytes(plan.disk)
    if plan.seconds is not None and plan.seconds_per_update is not None:
        yield "time per update", f"{plan.seconds_per_update:.3g} s"
        yield "time, total", format_duration(plan.seconds)
    if plan.energy is not None:
        yield "energy", f"{plan.energy:,.0f} Wh"
    if plan.cost is not None:
        yield "cost", f"{plan.cost:,.2f}"


def _format_bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e8 else f"{size / 1e9:.2f} GB"


def show_counsel(counsel: bottega.Counsel, console: Console) -> None:
    """Print whether to fine-tune, and the learning curve that says so."""
    direction = "more" if counsel.higher else "less"
    title = f"{bottega.metric_label(counsel.metric)}, {direction} is better"
    console.print(table(title, ["", "", "training"], _learning_curve(counsel)))
    console.print(Text(counsel.sentence, OUTCOME_STYLES[counsel.outcome]))
    if counsel.saved is not None and counsel.saved > 0:
        console.print(f"A request would read {counsel.saved:,.0f} tokens fewer than with the longest prompt.")
    if counsel.repaid is not None:
        console.print(f"The training time on all rows would be saved again after {counsel.repaid:,.0f} requests.")
    for subject, name, licence in counsel.licences:
        console.print(f"{subject} {escape(name)}: {escape(licence)}", style="dim")


def _learning_curve(counsel: bottega.Counsel) -> Iterator[tuple[str, str, str]]:
    for name, value in counsel.without.items():
        yield name, f"{value:.3f}", ""
    for point in counsel.points:
        training = f"{point.updates:,} updates, {format_duration(point.seconds)}"
        yield f"tuned on {point.rows:,} rows", f"{point.value:.3f}", training
    for size in counsel.expected:
        interval = f"{size.value:.3f} ({size.low:.3f} to {size.high:.3f})"
        training = f"{size.passes:.1f} passes, {format_duration(size.seconds)}"
        yield f"expected from {size.rows:,} rows", interval, training
