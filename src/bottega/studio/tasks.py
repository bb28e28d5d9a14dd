"""Long work: each task is a process of its own, which goes on when the server ends.

A task is a folder, and its state follows from the files in it, so that a server started later sees the same:

    TASK/task.json       what is to be done
    TASK/started         its process was started
    TASK/.lock           locked by its process for as long as that lives
    TASK/progress.json   what it does at the moment
    TASK/stop            it is asked to stop in order
    TASK/result.json     it is done
    TASK/failure.json    it failed, or was stopped
    TASK/log.txt         what its process printed
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import bottega

# Files of a task's folder.
TASK, STARTED, LOCK, PROGRESS, STOP, RESULT, FAILURE, LOG = (
    *("task.json", "started", ".lock", "progress.json", "stop", "result.json", "failure.json", "log.txt"),
)

# Seconds between looks at what waits, while a task runs and while none does.
POLL_SECONDS, IDLE_SECONDS = 0.5, 2.0

# The end of a log that is shown.
LOG_CHARACTERS = 4000

# `interrupted`: its process is gone without a word, killed or with the machine.
Status = Literal["waiting", "running", "done", "failed", "stopped", "interrupted"]


@dataclass(frozen=True)
class StudioTask:
    """What is to be done.

    verb       one of `worker.VERBS`
    arguments  of the verb
    subject    (kind, name) of what it makes or works on: `run`, `data`, `tokenizer`
    """

    id: str
    verb: str
    arguments: dict[str, Any]
    subject: tuple[str, str]
    created: float = field(default_factory=time.time)

    @classmethod
    def read(cls, folder: Path) -> StudioTask:
        """The task in a folder."""
        document = bottega.read_json(folder / TASK)
        return cls(**{**document, "subject": tuple(document["subject"])})


def task_status(folder: Path) -> Status:
    """The state of the task in a folder."""
    if outcome := _outcome(folder):
        return outcome
    if not (folder / STARTED).exists():
        return "waiting"
    if _is_locked(folder / LOCK):
        return "running"
    # It may have ended between the first look and this one.
    return _outcome(folder) or "interrupted"


def _outcome(folder: Path) -> Status | None:
    """How a task has ended; None if it has not, or without a word."""
    if (folder / RESULT).exists():
        return "done"
    if (folder / FAILURE).exists():
        return "stopped" if bottega.read_json(folder / FAILURE).get("stopped") else "failed"
    return None


def _is_locked(path: Path) -> bool:
    """Whether a process has locked a file."""
    with path.open("a") as file:
        try:
            # A shared lock is refused while the task's process holds the exclusive one.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def task_document(folder: Path) -> dict[str, Any]:
    """Everything there is to see of a task."""
    status = task_status(folder)
    document = {**asdict(StudioTask.read(folder)), "status": status}
    for name, key in ((PROGRESS, "progress"), (RESULT, "result"), (FAILURE, "failure")):
        with contextlib.suppress(FileNotFoundError):
            document[key] = bottega.read_json(folder / name)
    if status in ("failed", "interrupted") and (folder / LOG).exists():
        document["log"] = (folder / LOG).read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:]
    return document


class TaskRunner:
    """The tasks in a folder; `most` of them run at once, the others wait for their turn."""

    def __init__(self, folder: Path, most: int = 1) -> None:
        self.folder, self.most = folder, most
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._closed, self._submitted = threading.Event(), threading.Event()
        self._changing = threading.Lock()
        self._ended: dict[str, dict[str, Any]] = {}  # what is known of tasks that have ended, which never changes
        self._thread = threading.Thread(target=self._run, name="tasks", daemon=True)

    def start(self) -> None:
        """Begin to start what waits, and go on with what an earlier server left waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def close(self) -> None:
        """Start nothing more. What runs goes on."""
        self._closed.set()
        self._submitted.set()
        if self._thread.is_alive():
            self._thread.join()
        for id, process in self._processes.items():
            if task_status(self.folder / id) != "running":
                process.wait()  # it has said its last word
            elif process.poll() is None:
                # It goes on without us, and is not ours to wait for: by default that would be a warning.
                process.returncode = 0

    def submit(self, verb: str, arguments: Mapping[str, Any], subject: tuple[str, str]) -> StudioTask:
        """A new task, which waits for its turn."""
        task = StudioTask(f"task-{time.time_ns():x}-{secrets.token_hex(3)}", verb, dict(arguments), subject)
        folder = self.folder / task.id
        folder.mkdir()
        bottega.write_json(folder / TASK, asdict(task))
        self._submitted.set()
        return task

    def documents(self) -> list[dict[str, Any]]:
        """All tasks, the newest first, without their results."""
        found = []
        for folder in sorted(self._folders(), reverse=True):
            with contextlib.suppress(FileNotFoundError):  # it was forgotten just now
                found.append(self._ended.get(folder.name) or self._look(folder))
        return found

    def _look(self, folder: Path) -> dict[str, Any]:
        document = task_document(folder)
        document.pop("result", None)
        if document["status"] in ("done", "failed", "stopped"):
            self._ended[folder.name] = document
        return document

    def _status(self, folder: Path) -> Status:
        known = self._ended.get(folder.name)
        return known["status"] if known else task_status(folder)

    def subjects(self, kind: str) -> set[str]:
        """The names of a kind that tasks under way are about."""
        documents = [task for task in self.documents() if task["status"] in ("waiting", "running")]
        return {task["subject"][1] for task in documents if task["subject"][0] == kind}

    def document(self, id: str) -> dict[str, Any]:
        """A task; a KeyError if there is none."""
        return task_document(self._find(id))

    def stop(self, id: str) -> dict[str, Any]:
        """Ask a task to stop in order; one that waits is not begun."""
        folder = self._find(id)
        with self._changing:
            if task_status(folder) == "waiting":
                bottega.write_json(folder / FAILURE, {"stopped": True})
            else:
                (folder / STOP).touch()
        return task_document(folder)

    def forget(self, id: str) -> None:
        """Remove what is kept of a task that has ended."""
        folder = self._find(id)
        if task_status(folder) not in ("waiting", "running"):
            # Under another name first: whoever lists tasks sees all of it or nothing.
            gone = folder.with_name(f".{folder.name}")
            try:
                folder.rename(gone)
            except FileNotFoundError:  # somebody else has forgotten it
                return
            self._ended.pop(id, None)
            shutil.rmtree(gone)

    def _find(self, id: str) -> Path:
        folder = self.folder / id
        if folder not in self._folders():
            raise KeyError(id)
        return folder

    def _folders(self) -> list[Path]:
        return [path.parent for path in self.folder.glob(f"task-*/{TASK}")]

    def _run(self) -> None:
        while not self._closed.is_set():
            self._submitted.wait(POLL_SECONDS if self._processes else IDLE_SECONDS)
            self._submitted.clear()
            for id in [id for id, process in self._processes.items() if process.poll() is not None]:
                del self._processes[id]
            try:
                for folder in self._due():
                    self._begin(folder)
            except Exception:  # of any kind: without this thread nothing would be begun any more
                traceback.print_exc()

    def _due(self) -> Iterator[Path]:
        """The tasks that may begin now, the oldest first."""
        folders = sorted(self._folders())
        states: dict[Path, Status] = {}
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                states[folder] = self._status(folder)
        free = self.most - sum(
            status == "running" or folder.name in self._processes for folder, status in states.items()
        )
        waiting = [folder for folder, status in states.items() if status == "waiting"]
        yield from waiting[: max(free, 0)]

    def _begin(self, folder: Path) -> None:
        # The lock is passed on: from before it is started there is no moment in which nobody holds it.
        with self._changing, (folder / LOCK).open("a") as lock, (folder / LOG).open("ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another server is about to begin it
                return
            if task_status(folder) != "waiting":
                return
            (folder / STARTED).touch()
            try:
                # A session of its own: Ctrl-C and the end of the server do not reach it.
                self._processes[folder.name] = subprocess.Popen(
                    [sys.executable, "-m", "bottega.studio.worker", str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                what = {"kind": "OutOfMemory", "what": str(error), "where": None, "fix": "end other programs"}
                bottega.write_json(folder / FAILURE, what)
