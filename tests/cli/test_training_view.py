"""A run while it trains: which events are shown, and how."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from bottega.cli.training_view import MAX_ANSWER_LENGTH, _format_count, _format_event, warn, watch
from bottega.events import Answered, Event, Noted, Saved, Validated
from making import make_started, make_stepped

STARTED = make_started()


def watched(events: list[Event], **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    assert list(watch(events, console, **options)) == events, "all events are passed on"
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_without_a_terminal_about_twenty_updates_are_printed() -> None:
    lines = watched([STARTED, *(make_stepped(step) for step in range(1, 41))])
    assert lines[0] == (
        "1,200 examples, 30 for validation; 40 updates; training 1.0 K of 5.0 M weights (0.02 %), "
        "float32 on cpu, 2 threads"
    )
    assert len([line for line in lines if "loss" in line]) == 20
    assert "step      2  loss 2.5000  50 tokens/s  3.0 GB" in lines


def test_every_given_number_of_updates_a_line_stays() -> None:
    metrics = {"accuracy": 0.25}
    lines = watched(
        [STARTED, *(make_stepped(step, metrics=metrics, device_memory=1e9) for step in range(1, 7))], every=3
    )
    shown = [line for line in lines if line.startswith("step")]
    assert shown == [
        f"step      {step}  loss 2.5000  accuracy 0.250  50 tokens/s  3.0 GB (host), 1.0 GB (GPU)" for step in (3, 6)
    ]


def test_the_speed_is_a_moving_average() -> None:
    lines = watched([STARTED, make_stepped(1), make_stepped(2, seconds=1.0)], every=1)
    assert "50 tokens/s" in lines[1]
    assert "55 tokens/s" in lines[2]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Validated(step=4, loss=1.5, metrics={"accuracy": 0.5}, best=True, seconds=1.0),
         "step      4  validation loss 1.5000  accuracy 0.500 ✓ best"),
        (Validated(step=4, loss=1.5, metrics={}, best=False, seconds=1.0), "step      4  validation loss 1.5000"),
        (Saved(step=4, checkpoint="step-00000004", seconds=1.0), "[dim]step      4  saved step-00000004[/]"),
        (Noted(step=0, subject="x", message="see [this]", details={"too long": 2}),
         "[yellow]note[/] see \\[this]\n    2 × too long"),
        (Answered(step=1, where="a.jsonl line 1", prompt="?", answers=["low", "high\n up", "mid"],
                  rewards=[0.0, 1.0, 0.5]),
         "[dim]step      1  best and worst answer, by reward, to a.jsonl line 1\n    1: high up\n    0: low[/]"),
        (Event(step=1), None),
    ],
)  # fmt: skip
def test_the_line_of_an_event(event: Event, line: str | None) -> None:
    assert _format_event(event) == line


def test_long_answers_are_cut() -> None:
    event = Answered(step=1, where="here", prompt="?", answers=["x" * 500], rewards=[1.0])
    assert max(map(len, str(_format_event(event)).splitlines()[1:])) <= MAX_ANSWER_LENGTH + len("    1: [/]")


def test_a_resumed_run_says_where_it_continues() -> None:
    assert "continuing at step 7; training" in str(_format_event(make_started(resumed=True, step=7)))


def test_with_warnings_alone_only_notes_are_printed() -> None:
    console = Console(file=io.StringIO(), width=200)
    events = [STARTED, Noted(step=0, subject="x", message="careful"), make_stepped(1)]
    assert list(warn(events, console)) == events
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "note careful\n"


@pytest.mark.parametrize(("count", "text"), [(999, "999"), (1000, "1.0 K"), (1_250_000, "1.2 M"), (7e9, "7.0 B")])
def test_counts_are_short(count: int, text: str) -> None:
    assert _format_count(count) == text
