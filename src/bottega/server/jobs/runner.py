"""Starts the processes of jobs, watches them, and keeps what they tell.

All that a job has done is in its folder and in the state, so that a server that was killed goes on where it was: jobs
that were running are queued again, and their runs resume to the bit. Servers that share both share their jobs: one that
is idle takes the next job, and those of a server that is gone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

import bottega
from bottega.server.jobs.history import curves_csv, estimate_finish, tell, tell_events
from bottega.server.jobs.ownership import ServerMark
from bottega.server.jobs.queue import JobQueue, existing, release
from bottega.server.jobs.worker import (
    DONE,
    FAILED,
    FAILURE,
    GO,
    PREPARED,
    RUN,
    STOP,
    STOPPED,
    TRAINING,
    VALIDATION,
    JobSpec,
)
from bottega.server.state import FINAL, Job, State, StoredFile, TunedModel, find
from bottega.server.storage import Storage

# Seconds between looks at the processes.
POLL_SECONDS = 0.2

# Seconds between looks for what other servers have done.
SYNC_SECONDS = 2.0

# The organization in the names of tuned models.
ORGANIZATION = "local"

# The fraction of a device's memory that jobs may take together.
JOB_MEMORY = 0.9

LETTERS = string.ascii_letters + string.digits


@dataclass
class _Process:
    """The process of a job.

    state    what it does; `ready`: it has prepared the job, and waits to be told to train it
    control  a pipe that it holds the other end of
    memory   bytes that it is foreseen to need
    """

    state: Literal["preparing", "ready", "training"]
    process: subprocess.Popen[bytes]
    control: IO[bytes]
    memory: int = 0

    def train(self, memory: int) -> None:
        """Let it train what it has prepared; an OSError if it has ended."""
        self.control.write(GO)
        self.state, self.memory = "training", memory

    def stop(self) -> None:
        """Ask it to stop, in order."""
        try:
            self.control.write(STOP)
        except OSError:  # it has ended already
            return

    def close(self) -> None:
        """Let it end: without the pipe it does so at once."""
        self.control.close()
        self.process.wait()


class JobRunner:
    """The jobs of a server.

    folder        has a folder of each job
    serve         called with the name and the folder of every model that a job has made
    withdraw      called with the name of every model that another server has deleted
    max_jobs      most jobs that train at once; a job waits while there is too little memory for it beside the others
    min_examples  rows that a training file must have
    runs_code     whether graders may be Python code of whoever sends them; jobs with such wait for a server that may
    """

    def __init__(
        self,
        folder: Path,
        state: State,
        storage: Storage,
        serve: Callable[[str, Path], None],
        withdraw: Callable[[str], None],
        *,
        max_jobs: int = 1,
        min_examples: int = 10,
        runs_code: bool = False,
    ) -> None:
        self.folder, self.state, self.storage = folder, state, storage
        self.serve, self.withdraw = serve, withdraw
        self.mark = ServerMark(folder / "servers")
        self.queue = JobQueue(state, self.mark)
        self._served, self._synced = set[str](), 0.0
        self._idle_version: object = None  # of the tables when they said that there is nothing to do
        self.max_jobs, self.min_examples, self.runs_code = max_jobs, min_examples, runs_code
        self._processes: dict[str, _Process] = {}
        self._followed: dict[str, int] = {}  # bytes of the log of each job's run that were read
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Go on with the jobs of an earlier server, and serve the models that they have made."""
        self._sync()
        self._thread.start()

    def _sync(self) -> None:
        """Take over the jobs of servers that are gone; serve the models that there are now, and no others."""
        self._synced, version = time.monotonic(), self.state.version()
        self.queue.take_over()
        with self.state.transaction() as session:
            models = {model.name: self.folder / model.folder for model in session.scalars(select(TunedModel))}
        for name in self._served - models.keys():
            self._served.discard(name)
            self.withdraw(name)
        for name in models.keys() - self._served:
            self._serve(name, models[name])
        self._idle_version = version if self.queue.is_idle() else None

    def _serve(self, name: str, folder: Path) -> None:
        self._served.add(name)
        try:
            self.serve(name, folder)
        except bottega.BottegaError as error:  # its folder was removed or damaged: the others are served
            print(f"the tuned model {name} is not served: {error}", file=sys.stderr)

    def submit(self, job: Job, judges: dict[str, str] | None = None) -> None:
        """Keep a new job; its files are its own from now on. `judges`: where the models are that its grader names."""
        folder = self.folder / job.id
        folder.mkdir(parents=True)
        with self.state.transaction() as session:
            for file_id, name in ((job.training_file, TRAINING), (job.validation_file, VALIDATION)):
                file = None if file_id is None else find(session, StoredFile, file_id)
                if file is not None:
                    # A second name of the same bytes: deleting the file leaves the job what it reads.
                    os.link(self.storage.path(file.digest), folder / name)
            spec = JobSpec(
                name=job.id,
                method=job.method,
                source=job.source,
                seed=job.seed,
                training_file=job.training_file,
                validation_file=job.validation_file,
                hyperparameters=dict(job.hyperparameters),
                min_examples=self.min_examples,
                grader=job.grader,
                judges=judges or {},
            )
            spec.write(folder)
            session.add(job)
            session.flush()
            tell(session, job, f"Created fine-tuning job: {job.id}", key="created")
            files = f"training file: {job.training_file}"
            files += f" and validation file: {job.validation_file}" if job.validation_file else ""
            tell(session, job, f"Validating {files}", key="validating")
        self.wake()

    def ask(self, job_id: str, wanted: str) -> Job:
        """What a client wants of a job: `cancel`, `pause` or `run`; a ValueError says why it cannot be."""
        job = self.queue.ask(job_id, wanted)
        self.wake()
        return job

    def forget(self, name: str) -> bool:
        """Forget a model; whether a job had made it. With the last one of a job, its run goes."""
        with self.state.transaction() as session:
            model = session.scalars(select(TunedModel).filter_by(name=name)).one_or_none()
            if model is None:
                return False
            job_id = model.job_id
            session.delete(model)
            session.flush()
            others = session.scalars(select(TunedModel).filter_by(job_id=job_id)).first()
        self._served.discard(name)
        if others is None:
            shutil.rmtree(self.folder / job_id / RUN, ignore_errors=True)
        return True

    def wake(self) -> None:
        """Look at the jobs now."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Stop; running jobs save where they are, and go on with the next server."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        for process in self._processes.values():
            process.stop()
        for job_id, process in self._processes.items():
            try:
                process.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.process.kill()
            process.close()
            self._follow(job_id)
        self._processes.clear()
        self.mark.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
            try:
                self._look()
            except Exception as error:  # of any kind: the next look may succeed, and other jobs go on
                print(f"jobs: {type(error).__name__}: {error}", file=sys.stderr)
            with self._changed:
                if not self._closed:
                    self._changed.wait(POLL_SECONDS if self._processes else 10 * POLL_SECONDS)

    def _look(self) -> None:
        """Watch the processes, learn what other servers have done, and start what waits."""
        if not self._processes and self.state.version() == self._idle_version:
            return
        for job_id in list(self._processes):
            self._watch(job_id)
        if time.monotonic() > self._synced + SYNC_SECONDS:
            self._sync()
        self._start_next()
        # What cannot be trained now would keep its memory: another process will train it.
        for job_id in [job_id for job_id, process in self._processes.items() if process.state == "ready"]:
            self._processes.pop(job_id).close()

    def _start_next(self) -> None:
        blocked = False
        for job in self.queue.waiting():
            running = [process for process in self._processes.values() if process.state == "training"]
            if job.status == "validating_files":
                prepares = any(process.state == "preparing" for process in self._processes.values())
                if not prepares and self.queue.take(job, "validating_files"):
                    self._launch(job, "start")
            elif not blocked and self._may_run(job):
                try:
                    memory, limit = self._foreseen(job.id)
                except (OSError, ValueError):
                    with self.state.transaction() as session:
                        self._fail(session, existing(session, job.id))
                    continue
                has_memory = memory + sum(process.memory for process in running) <= JOB_MEMORY * limit
                if not running or (len(running) < self.max_jobs and has_memory):
                    if self.queue.take(job, "running"):
                        self._launch(job, "train", memory)
                else:
                    # Nor a smaller one behind it: it would wait for ever.
                    blocked = True

    def _may_run(self, job: Job) -> bool:
        """Whether a job needs nothing that this server may not do."""
        return self.runs_code or job.grader is None or not bottega.parse_grader(job.grader).runs_code

    def _foreseen(self, job_id: str) -> tuple[int, int]:
        """(bytes of memory that a job will need, bytes that there are)."""
        prepared = bottega.read_json(self.folder / job_id / PREPARED)
        return prepared.get("memory", 0), prepared.get("memory_limit", 0)

    def _launch(self, job: Job, verb: str, memory: int = 0) -> None:
        """Start a process for a job that this server has taken, or tell the one that has prepared it to go on."""
        try:
            if verb == "train" and job.id in self._processes:
                self._processes[job.id].train(memory)
            else:
                if verb == "start":  # what an earlier attempt has prepared says nothing of this one
                    (self.folder / job.id / PREPARED).unlink(missing_ok=True)
                self._processes[job.id] = _start(self.folder / job.id, verb, memory)
        except OSError as error:  # it may be possible later
            print(f"jobs: {job.id} cannot be started: {error}", file=sys.stderr)
            self.queue.give_back(job)

    def _watch(self, job_id: str) -> None:
        """Keep what a process has told; see to its end."""
        running = self._processes[job_id]
        code = running.process.poll()
        job = self._follow(job_id)
        if code is None:
            if job.wanted != "run":
                running.stop()
            elif running.state == "preparing" and (self.folder / job_id / PREPARED).exists():
                self._end_prepare(job_id, code)
                running.state = "ready"
            return
        running.close()
        if running.state == "preparing":
            self._end_prepare(job_id, code)
        elif running.state == "training":
            self._end_training(job_id, code)
        # Last: if the tables cannot be changed now, they are at the next look.
        del self._processes[job_id]

    def _end_prepare(self, job_id: str, code: int | None) -> None:
        """Let a job that is prepared wait for its training; `code`: that of its process, if it has ended."""
        folder = self.folder / job_id
        with self.state.transaction() as session:
            job = release(session, job_id)
            if job.status in FINAL:
                return
            if code != FAILED and (folder / PREPARED).exists():
                job.hyperparameters = bottega.read_json(folder / PREPARED)["hyperparameters"]
                job.status = "queued"
                tell(session, job, "Files validated, moving job to queued state", key="validated")
            else:
                self._fail(session, job)

    def _end_training(self, job_id: str, code: int) -> None:
        with self.state.transaction() as session:
            job = release(session, job_id)
            if job.status in FINAL:
                return
            if code == DONE:
                models = self._succeed(session, job)
            elif code == STOPPED and job.status in ("paused", "queued"):
                return
            elif code == STOPPED:  # it was asked to stop, and meanwhile to go on
                job.status = "queued"
                return
            else:
                self._fail(session, job)
                return
        for name, folder in models.items():
            self._serve(name, folder)

    def _fail(self, session: Session, job: Job) -> None:
        failure = self.folder / job.id / FAILURE
        unknown = {"code": "server_error", "message": "The process of the job ended without a reason.", "param": None}
        job.error = bottega.read_json(failure) if failure.exists() else unknown
        job.status, job.finished_at, job.estimated_finish = "failed", int(time.time()), None
        tell(session, job, str(job.error["message"]), level="error", key="failed")

    def _succeed(self, session: Session, job: Job) -> dict[str, Path]:
        """Name the model of a job, and keep its curves as a file; returns the new models."""
        run = self.folder / job.id / RUN
        events = bottega.show(run).events
        steps = [event for event in events if isinstance(event, bottega.Stepped)]
        name = ":".join(("ft", _base_name(job.model), ORGANIZATION, job.suffix or "", _letters()))
        models = {name: run}
        session.add(TunedModel(id=_model_id(name), name=name, job_id=job.id, folder=f"{job.id}/{RUN}"))
        losses = {event.step: event.loss for event in events if isinstance(event, bottega.Validated)}
        passes = self._passes(job.id, events)
        places = {event.step: run / "checkpoints" / event.checkpoint for event in passes}
        # After the last pass it is the result.
        places |= {steps[-1].step: run} if steps else {}
        for step in (step for step in steps if step.step in places and places[step.step].exists()):
            checkpoint, place = f"{name}:ckpt-step-{step.step}", places[step.step]
            metrics = {"step": step.step, "train_loss": step.loss}
            metrics |= {"valid_loss": losses[step.step]} if step.step in losses else {}
            session.add(
                TunedModel(
                    id=_model_id(checkpoint),
                    name=checkpoint,
                    is_checkpoint=True,
                    job_id=job.id,
                    folder=place.relative_to(self.folder).as_posix(),
                    step=step.step,
                    metrics=metrics,
                )
            )
            models[checkpoint] = place
        digest, size = self.storage.write_bytes(curves_csv(events).encode())
        file = StoredFile(
            id=new_file_id(), filename="step_metrics.csv", purpose="fine-tune-results", bytes=size, digest=digest
        )
        session.add(file)
        job.result_file, job.fine_tuned_model = file.id, name
        job.status, job.finished_at, job.estimated_finish = "succeeded", int(time.time()), None
        job.trained_tokens = sum(step.tokens_real for step in steps)
        tell(session, job, f"New fine-tuned model created: {name}", key="created model")
        tell(session, job, "The job has successfully completed", key="succeeded")
        return models

    def _passes(self, job_id: str, events: list[bottega.Event]) -> list[bottega.Saved]:
        """The checkpoints after whole passes; a run may have others, such as the best ones."""
        per_pass = bottega.read_json(self.folder / job_id / PREPARED)["updates_per_pass"]
        return [event for event in events if isinstance(event, bottega.Saved) and event.step % per_pass == 0]

    def _follow(self, job_id: str) -> Job:
        """Keep what the run of a job has told since the last look."""
        run = self.folder / job_id / RUN
        log = run / "events.jsonl"
        size = log.stat().st_size if log.exists() else 0
        with self.state.transaction() as session:
            job = existing(session, job_id)
            if size == self._followed.get(job_id, 0):
                return job
            try:
                events = bottega.show(run).events
            except bottega.RunError:  # it is only just begun: its folder is not complete
                return job
            self._followed[job_id] = size
            tell_events(session, job, events, self._passes(job_id, events))
            job.estimated_finish = estimate_finish(events) if job.status == "running" else None
        return job


def _start(folder: Path, verb: str, memory: int) -> _Process:
    """The process that prepares or trains the job in a folder; an OSError if there can be none now."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "bottega.server.jobs.worker", verb, str(folder), str(reading)]
    try:
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(command, pass_fds=(reading,), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    state: Literal["preparing", "training"] = "training" if verb == "train" else "preparing"
    return _Process(state, process, os.fdopen(writing, "wb", buffering=0), memory)


def _base_name(model: str) -> str:
    """What a model was tuned from, without what earlier tuning has added, and without characters of names."""
    base = model.split(":")[1] if model.startswith("ft:") else model
    return base.replace("/", "-").replace(":", "-")


def _model_id(name: str) -> str:
    return "ftckpt_" + hashlib.sha256(name.encode()).hexdigest()[:24]


def _letters() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(8))


def new_file_id() -> str:
    """A new id of a file."""
    return f"file-{secrets.token_hex(12)}"
