"""What a job has to tell: the events of its run as those of the API, its curves, and when it will end."""

from __future__ import annotations

import csv
import hashlib
import io
import secrets
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

import bottega
from bottega.server.state import Job, JobEvent


def tell(
    session: Session,
    job: Job,
    message: str,
    *,
    key: str | None,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
    known: set[str] | None = None,
) -> None:
    """Add an event to a job; one with a key that the job has already told is left out."""
    unique = secrets.token_hex(8) if key is None else key
    event_id = "ftevent-" + hashlib.sha256(f"{job.id} {unique}".encode()).hexdigest()[:24]
    if known is None:
        known = set(session.scalars(select(JobEvent.id).filter_by(id=event_id)))
    if event_id not in known:
        kind = "message" if data is None else "metrics"
        known.add(event_id)
        session.add(
            JobEvent(
                id=event_id,
                job_id=job.id,
                level=level,
                message=message,
                type=kind,
                data=None if data is None else dict(data),
            )
        )


def tell_events(session: Session, job: Job, events: list[bottega.Event], passes: list[bottega.Saved]) -> None:
    """Add what a run has told and the job has not; `passes`: its checkpoints after whole passes."""
    known = set(session.scalars(select(JobEvent.id).filter_by(job_id=job.id)))
    total = _total(events)
    losses = {event.step: event.loss for event in events if isinstance(event, bottega.Validated)}
    for event, following in pairwise([*events, None]):
        # The last update waits for what follows it, which may be its validation.
        if isinstance(event, bottega.Stepped) and following is not None:
            data = {"step": event.step, "total_steps": total, "train_loss": event.loss}
            message = f"Step {event.step}/{total}: training loss={event.loss:.2f}"
            if event.step in losses:
                data["valid_loss"] = losses[event.step]
                message += f", validation loss={losses[event.step]:.2f}"
            tell(session, job, message, key=f"step {event.step}", data=data, known=known)
        elif isinstance(event, bottega.Saved) and event in passes:
            message = f"Checkpoint created at step {event.step}"
            tell(session, job, message, key=f"checkpoint {event.step}", known=known)
        elif isinstance(event, bottega.Noted):
            tell(session, job, event.message, level="warn", key=f"note {event.message}", known=known)


def _total(events: list[bottega.Event]) -> int:
    """Updates of the whole run."""
    return next((event.steps for event in events if isinstance(event, bottega.Started)), 0)


def estimate_finish(events: list[bottega.Event]) -> int | None:
    """When a run will end, by the time of its updates so far; None before the second."""
    steps = [event for event in events if isinstance(event, bottega.Stepped)]
    if len(steps) < 2:
        return None
    # Not the first, in which kernels are compiled.
    mean = sum(step.seconds for step in steps[1:]) / (len(steps) - 1)
    return int(time.time() + mean * (_total(events) - steps[-1].step))


def curves_csv(events: list[bottega.Event]) -> str:
    """The losses of a run as the hosted API writes them, with empty cells where nothing was measured."""
    losses = {event.step: event.loss for event in events if isinstance(event, bottega.Validated)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"])
    for event in events:
        if isinstance(event, bottega.Stepped):
            writer.writerow([event.step, event.loss, "", losses.get(event.step, ""), ""])
    return text.getvalue()
