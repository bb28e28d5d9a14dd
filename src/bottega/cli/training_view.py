"""A run while it trains: its events as a live line and lines that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import bottega
from bottega.cli.console import format_memory

# Lines of a run's progress, about, where there is no terminal for a live line.
LINES_PER_RUN = 20

# Longest part of a generated answer that is shown, in characters.
MAX_ANSWER_LENGTH = 160

# Decay of the moving average of the speed: updates differ in length, and a single one says little.
SPEED_DECAY = 0.9


def watch(events: Iterable[bottega.Event], console: Console, *, every: int | None = None) -> Iterator[bottega.Event]:
    """Pass events on while showing them: a live line, and a line that stays for each event worth keeping.

    every  updates between lines that stay; default: none on a terminal, else about LINES_PER_RUN in a run
    """
    with _progress(console) as progress:
        line = _RunLine(progress, every=every)
        for event in events:
            line.show(event)
            yield event


def watch_several(events: Iterable[tuple[str, bottega.Event]], console: Console) -> Iterator[tuple[str, bottega.Event]]:
    """As `watch`, for (name, event) of several runs: a live line for each, and its name in the lines that stay."""
    with _progress(console) as progress:
        lines: dict[str, _RunLine] = {}
        for name, event in events:
            if name not in lines:
                lines[name] = _RunLine(progress, name)
            lines[name].show(event)
            yield name, event


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    return Progress(*columns, console=console, transient=True)


class _RunLine:
    """The live line of a run.

    name   of the run, where there are several
    every  as for `watch`
    """

    def __init__(self, progress: Progress, name: str = "", *, every: int | None = None) -> None:
        self.progress, self.name, self.every = progress, name, every
        self.task = progress.add_task(f"{name} loading".strip(), total=None, now="")
        self.average_speed = 0.0

    def show(self, event: bottega.Event) -> None:
        console = self.progress.console
        if isinstance(event, bottega.Started):
            if self.every is None and not console.is_terminal:
                self.every = max(1, event.steps // LINES_PER_RUN)
            description = self.name or "training"
            self.progress.reset(self.task, total=event.steps, completed=event.step, description=description)
        if isinstance(event, bottega.Stepped):
            speed = event.tokens_real / event.seconds
            before = self.average_speed or speed
            self.average_speed = SPEED_DECAY * before + (1 - SPEED_DECAY) * speed
            update = _update(event, self.average_speed)
            self.progress.update(self.task, completed=event.step, now=update)
            if self.every is not None and event.step % self.every == 0:
                self._keep(f"{_step(event.step)}  {update}")
        elif (line := _format_event(event)) is not None:
            self._keep(line)

    def _keep(self, line: str) -> None:
        self.progress.console.print(f"[bold]{escape(self.name)}[/] {line}" if self.name else line)


def warn(events: Iterable[bottega.Event], console: Console) -> Iterator[bottega.Event]:
    """Pass events on while showing notes only."""
    for event in events:
        if isinstance(event, bottega.Noted):
            console.print(_note(event))
        yield event


def _format_event(event: bottega.Event) -> str | None:
    """The line of an event, in rich's markup; None if it is not shown."""
    match event:
        case bottega.Started():
            return _start(event)
        case bottega.Validated():
            best = " ✓ best" if event.best else ""
            return f"{_step(event.step)}  validation loss {event.loss:.4f}{_format_metrics(event.metrics)}{best}"
        case bottega.Answered():
            return f"[dim]{_answers(event)}[/]"
        case bottega.Noted():
            return _note(event)
        case bottega.Saved():
            return f"[dim]{_step(event.step)}  saved {escape(event.checkpoint)}[/]"
        case bottega.Failed():
            return f"{_step(event.step)}  [red]failed[/]: {escape(event.message)}"
        case bottega.Finished():
            return f"{_step(event.step)}  done: {escape(event.reason)}"
    return None


def _step(step: int) -> str:
    return f"step {step:>6}"


def _note(event: bottega.Noted) -> str:
    details = "".join(f"\n    {count} × {escape(str(reason))}" for reason, count in event.details.items())
    return f"[yellow]note[/] {escape(event.message)}{details}"


def _answers(event: bottega.Answered) -> str:
    """The answers with the highest and the lowest reward, one line each."""
    scored = sorted(zip(event.rewards, event.answers, strict=True))
    lines = [
        f"\n    {reward:.3g}: {' '.join(text.split())[:MAX_ANSWER_LENGTH]}" for reward, text in (scored[-1], scored[0])
    ]
    # A generated answer may look like rich's markup.
    return escape(f"{_step(event.step)}  best and worst answer, by reward, to {event.where}{''.join(lines)}")


def _start(event: bottega.Started) -> str:
    percent = 100 * event.trained_parameters / event.parameters
    start = f"continuing at step {event.step}" if event.resumed else f"{event.steps} updates"
    return (
        f"{event.examples:,} examples, {event.validation_examples:,} for validation; {start}; training "
        f"{_format_count(event.trained_parameters)} of {_format_count(event.parameters)} weights ({percent:.3g} %), "
        f"{event.dtype} on {event.device}, {event.threads} threads"
    )


def _update(event: bottega.Stepped, speed: float) -> str:
    memory = format_memory(event.memory, event.device_memory)
    return f"loss {event.loss:.4f}{_format_metrics(event.metrics)}  {speed:,.0f} tokens/s  {memory}"


def _format_metrics(metrics: dict[str, float]) -> str:
    return "".join(f"  {name} {value:.3f}" for name, value in metrics.items())


def _format_count(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
