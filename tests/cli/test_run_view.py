"""A run in the terminal: its facts, charts, notes and next steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bottega.cli.run_view import _duration, draw_chart, show_run
from bottega.events import Event, Failed, Noted
from bottega.runs.overview import NextStep, RunOverview
from making import make_started, make_stepped, printed

STARTED = make_started()


def overview(*events: Event, **changes: Any) -> RunOverview:
    summary = {
        "run": "runs/a", "status": "stopped", "step": 0, "steps": None, "validation_loss": None, "metrics": {},
        "verdict": None, "result": None, "time": 0.0,
    }  # fmt: skip
    steps = [NextStep("resume", "continue it", "bottega train --resume runs/a")]
    return RunOverview(Path("runs/a"), summary | changes, [event.document() for event in events], steps)


def test_a_run_that_has_not_started_shows_what_is_known() -> None:
    text = printed(show_run, overview())
    assert "stopped, update 0 of ?" in text
    assert "continue it: bottega train --resume runs/a" in text
    for name in ("trained", "training time", "loss", "verdict", "the result"):
        assert f"\n{name}" not in text


def test_the_facts_of_a_run() -> None:
    known = {"step": 2, "steps": 40, "validation_loss": 1.25, "metrics": {"accuracy": 0.5}, "result": "model"}
    text = printed(
        show_run, overview(STARTED, make_stepped(1), make_stepped(2, loss=2.25), **known, verdict="Better: all.")
    )
    facts = {line[:17].strip(): line[17:].strip() for line in text.splitlines() if line[17:].strip()}
    assert facts["status"] == "stopped, update 2 of 40"
    assert facts["trained"] == "1,000 of 5,000,000 weights"
    assert facts["computed in"] == "float32 on cpu"
    assert facts["examples"] == "1,200, 30 for validation"
    assert facts["training time"] == "4 s, 50 tokens/s (25% of them shared)"
    assert facts["peak memory"] == "3.0 GB"
    assert facts["loss"] == "2.2500"
    assert facts["validation loss"] == "1.2500, accuracy 0.500"
    assert "verdict Better: all." in text
    assert "the result: runs/a/model" in text


def test_notes_and_failures_are_shown_in_order_as_they_are() -> None:
    noted = Noted(step=0, subject="data", message="rows [dropped]", details={"too long": 3})
    failed = Failed(step=1, error="Diverged", message="the loss is NaN")
    text = printed(show_run, overview(noted, failed))
    assert "note rows [dropped]\n    3 × too long\nfailed the loss is NaN\n" in text


def test_the_legend_of_a_chart_is_above_its_curves() -> None:
    steps = list(range(10))
    shown = draw_chart("accuracy", {"training": (steps, steps), "validation": (steps, steps[::-1])}, 60)
    head, *drawing = shown.splitlines()
    assert head == "accuracy   ⠒ training   • validation"
    assert not any("training" in line or "validation" in line for line in drawing)
    assert draw_chart("loss", {"training": (steps, steps)}, 60).splitlines()[0] == "loss"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min"), (7325, "2 h 2 min")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
