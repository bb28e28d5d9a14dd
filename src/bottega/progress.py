"""How far a long piece of work is: what is told of it while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from bottega.events import Event, Started, Stepped

ProgressCallback = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


class StatusCallback(Protocol):
    """Called with what is being done, how much of it is done, and of how much, where that is known."""

    def __call__(self, words: str, done: int = 0, total: int | None = None) -> None: ...


def ignore_status(words: str, done: int = 0, total: int | None = None) -> None:
    """Tell nobody."""


def progress_callback(tell: StatusCallback, words: str) -> ProgressCallback:
    """What tells how far the work called `words` is."""

    def far(done: int, total: int) -> None:
        tell(words, done, total)

    tell(words)
    return far


def report_updates(events: Iterable[Event], tell: StatusCallback, words: str) -> Iterator[Event]:
    """The events of a run, with its updates told."""
    tell(words)
    total: int | None = None
    for event in events:
        if isinstance(event, Started):
            total = event.steps
        elif isinstance(event, Stepped):
            tell(words, event.step, total)
        yield event
