"""What a job tells of its run."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

import bottega
from bottega.server.jobs.history import curves_csv, estimate_finish, tell_events
from bottega.server.state import Job, JobEvent, State
from making import make_started, make_stepped

EVENTS: list[bottega.Event] = [
    make_started(steps=4),
    make_stepped(1),
    bottega.Validated(step=1, loss=2.5, metrics={}, best=True, seconds=0.1),
    make_stepped(2),
    bottega.Saved(step=2, checkpoint="step-00000002", seconds=0.1),
]


def test_events_are_told_once(tmp_path: Path) -> None:
    state = State(tmp_path)
    job = Job(id="j", model="m", source="s", training_file="f", seed=1, method="supervised", request="r")
    state.add(job)
    passes = [event for event in EVENTS if isinstance(event, bottega.Saved)]
    for known in (EVENTS[:2], EVENTS, EVENTS):
        with state.transaction() as session:
            tell_events(session, job, known, passes)
    with state.transaction() as session:
        told = list(session.scalars(select(JobEvent).order_by(JobEvent.number)))
    assert [event.data["step"] for event in told if event.data] == [1, 2]
    assert told[-1].message == "Checkpoint created at step 2"
    assert all(event.message.startswith("Step ") for event in told[:-1])
    state.close()


def test_the_curves_have_empty_cells_where_nothing_was_measured() -> None:
    head, first, second = curves_csv(EVENTS).splitlines()
    assert head == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert first.endswith(",,2.5,")
    assert second.endswith(",,,")


def test_the_end_is_known_after_two_updates() -> None:
    assert estimate_finish(EVENTS[:2]) is None
    assert estimate_finish(EVENTS) is not None
