"""The jobs that wait, and which server has which: what clients and servers want of a job at the same time.

Every change is one UPDATE with the condition under which it is right, so that of two servers, or of a server and a
client, one is told that it came too late.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from bottega.server.jobs.history import tell
from bottega.server.jobs.ownership import ServerMark
from bottega.server.state import FINAL, Job, State, find


class Wish(NamedTuple):
    """What clients may ask of a job.

    states  in which they may
    status  that it then has
    verb    for the error in any other state
    event   that is told
    """

    states: frozenset[str]
    status: str
    verb: str
    event: str


WISHES = {
    "cancel": Wish(
        frozenset({"validating_files", "queued", "running", "paused"}),
        "cancelled",
        "cancelled",
        "The job was cancelled",
    ),
    "pause": Wish(frozenset({"running"}), "paused", "paused", "The job is being paused"),
    "run": Wish(frozenset({"paused"}), "queued", "resumed", "The job was resumed, moving job to queued state"),
}


class JobQueue:
    """The jobs of a server, and of others that share its tables. `mark`: this server."""

    def __init__(self, state: State, mark: ServerMark) -> None:
        self.state, self.mark = state, mark

    def waiting(self) -> list[Job]:
        """The jobs that nobody has, the oldest first."""
        with self.state.transaction() as session:
            free = (Job.status.in_(("validating_files", "queued")), Job.owner.is_(None))
            return list(session.scalars(select(Job).where(*free).order_by(Job.number)))

    def take(self, job: Job, status: str) -> bool:
        """Make a waiting job this server's own; False if another server was faster, or a client."""
        with self.state.transaction() as session:
            free = (Job.id == job.id, Job.status == job.status, Job.owner.is_(None))
            taken = _change(session, *free, owner=self.mark.id, status=status)
            if taken and status == "running":
                tell(session, existing(session, job.id), "Fine-tuning job started", key="started")
        return taken

    def is_idle(self) -> bool:
        """Whether no job waits, and no server has any."""
        with self.state.transaction() as session:
            under_way = or_(Job.owner.is_not(None), Job.status.in_(("validating_files", "queued", "running")))
            return session.scalars(select(Job.id).where(under_way)).first() is None

    def give_back(self, job: Job) -> None:
        """Let a job wait as it did before this server took it."""
        with self.state.transaction() as session:
            _change(session, Job.id == job.id, Job.status.not_in(FINAL), status=job.status)
            _change(session, Job.id == job.id, owner=None)

    def take_over(self) -> None:
        """Let the jobs of servers that are gone wait again."""
        with self.state.transaction() as session:
            # Without an owner: of a version that had none.
            had = select(Job.id, Job.owner).where(or_(Job.owner.is_not(None), Job.status == "running"))
            owners = [(job_id, owner) for job_id, owner in session.execute(had)]
        for job_id, owner in owners:
            if owner is None or not self.mark.is_alive(owner):
                self._take_over(job_id, owner)

    def _take_over(self, job_id: str, owner: str | None) -> None:
        same = (Job.id == job_id, Job.owner.is_(None) if owner is None else Job.owner == owner)
        with self.state.transaction() as session:
            if _change(session, *same, Job.status == "running", owner=None, status="queued"):
                message = "The server that trained it has ended; the job goes on from its last checkpoint"
                tell(session, existing(session, job_id), message, key=None)
            else:
                _change(session, *same, owner=None)

    def ask(self, job_id: str, wanted: str) -> Job:
        """What a client wants of a job: `cancel`, `pause` or `run`; a ValueError says why it cannot be."""
        wish = WISHES[wanted]
        with self.state.transaction() as session:
            ended = {"finished_at": int(time.time())} if wish.status in FINAL else {}
            new = {"wanted": wanted, "status": wish.status, "estimated_finish": None, **ended}
            changed = _change(session, Job.id == job_id, Job.status.in_(wish.states), **new)
            job = existing(session, job_id)
            if not changed:
                raise ValueError(f"Job {job_id} is {job.status} and cannot be {wish.verb}.")
            # A job may be paused and resumed several times, and each is told.
            tell(session, job, wish.event, key=None)
        return job


def release(session: Session, job_id: str) -> Job:
    """The job, which no server has from now on; nobody else can change it before the end of this transaction."""
    _change(session, Job.id == job_id, owner=None)
    return existing(session, job_id)


def existing(session: Session, job_id: str) -> Job:
    """A job that there is."""
    job = find(session, Job, job_id)
    assert job is not None, "jobs are never deleted"
    return job


def _change(session: Session, *conditions: Any, **values: Any) -> bool:
    """Change the job that meets some conditions; whether there was one."""
    result: Any = session.execute(update(Job).where(*conditions).values(**values))
    return bool(result.rowcount)
