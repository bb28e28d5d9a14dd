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
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading", total=None, now="")
        average_speed = 0.0
        for event in events:
            if isinstance(event, bottega.Started):
                if every is None and not console.is_terminal:
                    every = max(1, event.steps // LINES_PER_RUN)
                progress.reset(task, total=event.steps, completed=event.step, description="training")
            if isinstance(event, bottega.Stepped):
                speed = event.tokens_real / event.seconds
                average_speed = SPEED_DECAY * average_speed + (1 - SPEED_DECAY) * speed if average_speed else speed
                update = _update(event, average_speed)
                progress.update(task, completed=event.step, now=update)
                if every is not None and event.step % every == 0:
                    console.print(f"{_step(event.step)}  {update}")
            elif (line := _format_event(event)) is not None:
                console.print(line)
            yield event


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
