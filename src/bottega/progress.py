"""Callbacks that report the progress of long work to whoever shows it; nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bottega.events import Event, Started, Stepped

# Called with (done, total). May raise, which stops the work.
ProgressCallback = Callable[[int, int], None]


class StatusCallback(Protocol):
    """Called with what is being done, how much of it is done, and the total; `total` is None if unknown."""

    def __call__(self, message: str, done: int = 0, total: int | None = None) -> None: ...


def ignore_status(message: str, done: int = 0, total: int | None = None) -> None:
    """A StatusCallback that reports nothing."""


def progress_callback(tell: StatusCallback, message: str) -> ProgressCallback:
    """A callback `(done, total)` that reports through `tell`; announces `message` at once."""

    def report(done: int, total: int) -> None:
        tell(message, done, total)

    tell(message)
    return report


def update_reporter(tell: StatusCallback, message: str) -> Callable[[Event], None]:
    """A callback for the events of a run that reports each update through `tell`; announces `message` at once."""
    total: int | None = None

    def report(event: Event) -> None:
        nonlocal total
        if isinstance(event, Started):
            total = event.steps
        elif isinstance(event, Stepped):
            tell(message, event.step, total)

    tell(message)
    return report
