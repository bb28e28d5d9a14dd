"""What all views share: consoles, tables, bars, a progress line, and units in words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import bottega

# Styles of tokens that carry loss, of labels, and of tokens that are only read.
LOSS_STYLE, LABEL_STYLE, CONTEXT_STYLE = "bold green", "cyan", "dim"

# Width of a full bar, in characters.
BAR_WIDTH = 40

# Width of piped output: enough for any table. A pipe has no width, and rich would assume 80.
PIPE_WIDTH = 160

# Columns whose cells are never wrapped: a number in two lines is misread.
NUMERIC_COLUMNS = {
    "run",
    "base",
    "baseline",
    "difference (95 % CI)",
    "rows",
    "finding",
    "step",
    "steps",
    "loss",
    "validation loss",
}


def progress_console(*, quiet: bool = False) -> Console:
    """A console on stderr, where progress goes."""
    return Console(stderr=True, highlight=False, quiet=quiet)


def results_console() -> Console:
    """A console on stdout, where results go; COLUMNS sets its width when it is piped."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(highlight=False, width=width)


@contextmanager
def progress(message: str) -> Iterator[bottega.StatusCallback]:
    """A live progress line; yields the callback that updates it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeRemainingColumn())
    with Progress(*columns, console=progress_console(), transient=True) as live:
        task = live.add_task(message, total=None, now="")

        def tell(message: str, done: int = 0, total: int | None = None) -> None:
            if live.tasks[0].description != message:
                # The speed of one piece of work predicts nothing of the next.
                live.reset(task, description=message)
            # Set directly: `update(total=None)` would leave the old total.
            live.tasks[0].total = total
            counts = f"{done:,}" if done else ""
            live.update(task, completed=done, now=counts + (f" of {total:,}" if done and total else ""))

        yield tell


def table(title: str, columns: list[str], rows: Iterable[Iterable[Any]]) -> Table:
    """A borderless table. The first column wraps, so that numbers need not."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        result.add_column(column, overflow="fold", no_wrap=index > 0 and column in NUMERIC_COLUMNS)
    for row in rows:
        result.add_row(*(escape(str(cell)) for cell in row))
    return result


def bars(title: str, fractions: Iterable[tuple[str, float]]) -> Table:
    """A line for each name, with its fraction as a bar and in percent."""
    result = table(title, ["", "", ""], [])
    for name, fraction in fractions:
        # At least one block: a bar of none would look like 0.
        result.add_row(Text(name, LOSS_STYLE), "█" * max(1, round(BAR_WIDTH * fraction)), f"{fraction:.1%}")
    result.show_header = False
    return result


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever gives a readable number."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_memory(host: float, device: float) -> str:
    """Peak bytes of the host, and of the accelerator if there is one."""
    return f"{host / 1e9:.1f} GB (host), {device / 1e9:.1f} GB (GPU)" if device else f"{host / 1e9:.1f} GB"
