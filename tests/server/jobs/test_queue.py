"""What servers and clients want of a job at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bottega.server.jobs.ownership import ServerMark
from bottega.server.jobs.queue import JobQueue, release
from bottega.server.state import Job, JobEvent, State


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[tuple[JobQueue, JobQueue]]:
    """The queues of two servers over one state."""
    state = State(tmp_path)
    marks = [ServerMark(tmp_path / "servers") for _ in range(2)]
    one, other = (JobQueue(state, mark) for mark in marks)
    yield one, other
    for mark in marks:
        mark.close()
    state.close()


def add(queue: JobQueue, status: str = "queued", **fields: Any) -> Job:
    job = Job(
        id="ftjob-1", model="m", source="s", training_file="f", seed=1, method="supervised", request="r", status=status,
        **fields,
    )  # fmt: skip
    queue.state.add(job)
    return job


def now(queue: JobQueue) -> Job:
    job = queue.state.get(Job, "ftjob-1")
    assert job is not None
    return job


def test_a_job_is_taken_once(queues: tuple[JobQueue, JobQueue]) -> None:
    one, other = queues
    add(one)
    (seen,), (also_seen,) = one.waiting(), other.waiting()
    assert one.take(seen, "running")
    assert not other.take(also_seen, "running")
    assert not other.waiting()
    assert (now(one).owner, now(one).status) == (one.mark.id, "running")
    one.give_back(seen)
    assert other.take(also_seen, "running")


def test_jobs_of_servers_that_are_gone_wait_again(queues: tuple[JobQueue, JobQueue]) -> None:
    """Once, whoever sees it first; also those of a version that knew no owners."""
    one, other = queues
    add(one, "running", owner="gone")
    one.take_over()
    assert one.take(one.waiting()[0], "running")
    # What the other server saw before no longer holds.
    other._take_over("ftjob-1", "gone")
    assert (now(one).owner, now(one).status) == (one.mark.id, "running")
    other.take_over()
    assert now(one).owner == one.mark.id
    with one.state.transaction() as session:
        release(session, "ftjob-1")
    other.take_over()
    assert (now(one).owner, now(one).status) == (None, "queued")
    events, _ = one.state.page(JobEvent, limit=10, after=None)
    assert [event.message.split(";")[0] for event in events].count("The server that trained it has ended") == 2


def test_what_came_too_late_changes_nothing(queues: tuple[JobQueue, JobQueue]) -> None:
    one, _ = queues
    job = add(one)
    cancelled = one.ask(job.id, "cancel")
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at
    assert not one.take(job, "running")
    one.give_back(job)
    assert now(one).status == "cancelled"
    for wanted, verb in (("cancel", "cancelled"), ("pause", "paused"), ("run", "resumed")):
        with pytest.raises(ValueError, match=f"is cancelled and cannot be {verb}"):
            one.ask(job.id, wanted)


@pytest.mark.parametrize(
    ("status", "owner", "idle"),
    [
        ("validating_files", None, False),
        ("queued", None, False),
        ("running", "a server", False),
        ("paused", "a server", False),
        ("paused", None, True),
        ("succeeded", None, True),
    ],
)
def test_a_queue_is_idle_while_no_server_has_anything_to_do(
    queues: tuple[JobQueue, JobQueue], status: str, owner: str | None, idle: bool
) -> None:
    one, other = queues
    assert one.is_idle()
    add(one, status, owner=owner)
    assert one.is_idle() == other.is_idle() == idle
