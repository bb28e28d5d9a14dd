"""A run that is watched: what is read bit by bit is what is read as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bottega.runs.follow import RunFollower
from bottega.runs.store import history
from bottega.runs.summary import summary

EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "started", "step": 0, "steps": 9, "resumed": False},
    *({"type": "stepped", "step": step, "loss": 3.0 / step, "seconds": 0.5} for step in range(1, 5)),
    {"type": "validated", "step": 4, "loss": 2.5, "metrics": {"accuracy": 0.5}},
    {"type": "started", "step": 2, "steps": 9, "resumed": True},
    *({"type": "stepped", "step": step, "loss": 2.0 / step, "seconds": 0.5} for step in range(3, 6)),
)


def test_bit_by_bit_is_as_a_whole(log: Callable[..., Path]) -> None:
    """At any byte: an event that is not written whole is read once it is."""
    run = log(*EVENTS)
    data = (run / "events.jsonl").read_bytes()
    follower = RunFollower(run)
    for size in range(0, len(data) + 1, 7):
        (run / "events.jsonl").write_bytes(data[:size])
        follower.read()
        whole = data[: data[:size].rfind(b"\n") + 1]
        assert len(whole.splitlines()) >= len(follower.history)
    (run / "events.jsonl").write_bytes(data)
    follower.read()
    assert follower.history == history(run)
    assert follower.summary() == summary(run)
    assert follower.generation == 1, "the resume took updates back"


def test_only_what_is_new_is_read(log: Callable[..., Path]) -> None:
    run = log(*EVENTS[:3])
    follower = RunFollower(run)
    follower.read()
    before = list(map(id, follower.history))
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps(EVENTS[3]) + "\n")
    follower.read()
    assert list(map(id, follower.history))[:3] == before
    assert len(follower.history) == 4
    assert follower.generation == 0


def test_another_run_in_the_folder_is_read_from_its_beginning(log: Callable[..., Path]) -> None:
    run = log(*EVENTS)
    follower = RunFollower(run)
    follower.read()
    (run / "events.jsonl").write_text(json.dumps(EVENTS[0]) + "\n")
    follower.read()
    assert follower.history == [EVENTS[0]]
    assert follower.generation == 2


def test_a_longer_log_of_another_run_is_not_taken_for_more_of_the_first(log: Callable[..., Path]) -> None:
    run = log(*EVENTS[:2])
    follower = RunFollower(run)
    follower.read()
    (run / "new").write_text("".join(json.dumps(event) + "\n" for event in EVENTS[:5]))
    (run / "new").replace(run / "events.jsonl")
    follower.read()
    assert follower.history == list(EVENTS[:5])
    assert follower.generation == 1


def test_a_torn_line_is_left_out(log: Callable[..., Path]) -> None:
    run = log(*EVENTS[:2])
    with (run / "events.jsonl").open("a") as file:
        file.write('{"type": "step\n' + json.dumps(EVENTS[2]) + "\n")
    follower = RunFollower(run)
    follower.read()
    assert [event["type"] for event in follower.history] == ["started", "stepped", "stepped"]
