"""The workshop: the folders that a studio works in, and the tasks under way.

runs/                     runs, as the command line has them
FOLDER/studio/data/       data sets
FOLDER/studio/labels/     pairs of answers, and what people said of them
FOLDER/studio/uploads/    files on their way in
FOLDER/studio/tasks/      what is done, and was done
FOLDER/studio/made/       tokenizers and exports
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bottega
from bottega.studio.datasets import DataSets
from bottega.studio.labels import LabelSessions
from bottega.studio.tasks import TaskRunner

UPLOAD_ID = re.compile(r"upload-(\d{1,15})-[0-9a-f]{24}")

# Bytes of the name of a file.
MAX_NAME = 255

# Bytes of an upload, and of one of its parts.
MAX_UPLOAD, MAX_PART = 64 << 30, 8 << 20

# Seconds after which an upload that nobody goes on with is removed.
UPLOAD_SECONDS = 24 * 3600

# Seconds after which what was measured for a form is not waited for any more.
PLAN_SECONDS = 600


class Workshop:
    """What a studio works with.

    runs        the folder of runs
    folder      the server's own folder
    deployment  of the server: what it was started with, and models to chat with
    """

    def __init__(self, runs: Path, folder: Path, deployment: bottega.Deployment, most_tasks: int = 1) -> None:
        self.deployment = deployment
        self.runs, self.folder = runs.absolute(), folder.absolute() / "studio"
        self.data = DataSets(self.folder / "data")
        self.labels = LabelSessions(self.folder / "labels")
        self.tasks = TaskRunner(self.folder / "tasks", most_tasks)
        self._followed: dict[str, bottega.RunFollower] = {}
        self._reading, self._naming = threading.Lock(), threading.Lock()
        self._opened = set[str]()  # names that the studio has added to the deployment
        self.uploads, self.made = self.folder / "uploads", self.folder / "made"

    def open(self) -> None:
        """Create the folders, and go on with what waits."""
        for folder in (self.data.folder, self.labels.folder, self.uploads, self.made):
            folder.mkdir(parents=True, exist_ok=True)
        for path in self.uploads.iterdir():
            if path.stat().st_mtime < time.time() - UPLOAD_SECONDS:
                path.unlink()
        self.tasks.start()

    def close(self) -> None:
        """Start nothing more; tasks that run go on."""
        self.tasks.close()

    # Runs

    def run_folder(self, name: str) -> Path:
        """The folder of a run, which need not exist."""
        # Whatever the command line may have called it: a folder inside that of the runs, and nothing else.
        if not name or name.startswith(".") or set(name) & {"/", "\\", "\0"} or len(name.encode()) > MAX_NAME:
            raise bottega.RunError("not a name for a run", where=name, fix="name a folder inside runs/")
        return self.runs / name

    def follow(self, name: str) -> bottega.RunFollower:
        """A run with all its events so far; a RunError if there is no such run."""
        folder = self.run_folder(name)
        if not (folder / "recipe.yaml").exists() or not (folder / "resolved.json").exists():
            self._followed.pop(name, None)
            raise bottega.RunError("no such run", where=name, fix="choose one of the list")
        with self._reading:
            follower = self._followed.setdefault(name, bottega.RunFollower(folder))
            follower.read()
        return follower

    def run_names(self) -> list[dict[str, Any]]:
        """All runs at a glance, the most recent first."""
        summaries = []
        for path in self.runs.glob("*/resolved.json"):
            # A damaged run must not hide the others.
            with contextlib.suppress(bottega.BottegaError, OSError):
                summaries.append({**self.follow(path.parent.name).summary(), "id": path.parent.name})
        return sorted(summaries, key=lambda run: -float(run["time"]))

    def submit_run(self, verb: str, wanted: str, arguments: Callable[[str, Path], dict[str, Any]]) -> tuple[str, str]:
        """(the id of a new task, the name of its run): a name like the one wanted that no run has, or waits to have."""
        with self._naming:
            taken, number = self.tasks.subjects("run"), 1
            while (self.runs / f"{wanted}-{number}").exists() or f"{wanted}-{number}" in taken:
                number += 1
            name = f"{wanted}-{number}"
            return self.tasks.submit(verb, arguments(name, self.run_folder(name)), ("run", name)).id, name

    def submit_import(self, wanted: str, arguments: dict[str, Any]) -> tuple[str, str]:
        """(the id of a new task, the name of its data set), in the same way."""
        with self._naming:
            name = self.data.free_name(wanted, self.tasks.subjects("data"))
            return self.tasks.submit("import", {**arguments, "name": name}, ("data", name)).id, name

    def submit_plan(self, recipe: bottega.Recipe) -> str:
        """The id of a new task that measures what a run will take; old ones that nobody came for are forgotten."""
        for task in self.tasks.documents():
            if task["verb"] == "plan" and task["created"] < time.time() - PLAN_SECONDS:
                with contextlib.suppress(KeyError, FileNotFoundError):  # somebody else has forgotten it
                    self.tasks.stop(task["id"])
                    self.tasks.forget(task["id"])
        return self.tasks.submit("plan", {"recipe": recipe.document()}, ("plan", recipe.name)).id

    def forget_run(self, name: str) -> None:
        """Let go what is kept of a run that is deleted; another may get its name."""
        self._followed.pop(name, None)
        self.close_model(name)

    # Uploads

    def begin_upload(self, size: int) -> str:
        """The id of a new upload; a DiskError if there is no room for it."""
        free = shutil.disk_usage(self.uploads).free
        if size > min(MAX_UPLOAD, free // 3):
            # It is there twice while it is read, and needs room to be worked with.
            fix = f"at most {min(MAX_UPLOAD, free // 3) / 1e9:.1f} GB can be taken now; free some space"
            raise bottega.DiskError("the file is too large for the disk", where=f"{size / 1e9:.1f} GB", fix=fix)
        name = f"upload-{size}-{secrets.token_hex(12)}"
        (self.uploads / name).touch()
        return name

    def upload_path(self, upload: str) -> Path:
        """The file of an upload under way."""
        path = self.uploads / upload
        if not UPLOAD_ID.fullmatch(upload) or not path.exists():
            raise bottega.DataError("no such upload", where=upload, fix="choose the file again")
        return path

    def write_part(self, upload: str, offset: int, part: bytes) -> int:
        """Write a part of an upload where it belongs; returns how much there is now."""
        path = self.upload_path(upload)
        announced = int(upload.split("-")[1])
        if len(part) > MAX_PART or offset + len(part) > announced:
            fix = f"parts of at most {MAX_PART} bytes, {announced} in all"
            raise bottega.DataError("more is sent than was announced", where=upload, fix=fix)
        size = path.stat().st_size
        if offset > size:
            raise bottega.DataError(f"a part is missing before byte {offset}", where=upload, fix="send it again")
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(part)
        return max(size, offset + len(part))

    # Models

    def models(self) -> Iterator[dict[str, Any]]:
        """Models that can be used and tuned: the runs that have ended, and what the server was started with."""
        known = set[str]()
        for run in self.run_names():
            if run["result"] is not None:
                known.add(run["id"])
                yield {"name": run["id"], "source": run["run"], "kind": "run"}
        for name in self.deployment.names:
            if name not in known:
                yield {"name": name, "source": self.deployment.source(name), "kind": "served"}

    def model_source(self, name: str) -> str:
        """Where a model is: a run by its name, or what is given."""
        return next((model["source"] for model in self.models() if model["name"] == name), name)

    def open_model(self, name: str) -> bottega.ServedLanguageModel:
        """A language model to chat with, by the name that the API of the server then has for it."""
        if name in self.deployment.names:
            return self.deployment.language(name)
        self.deployment.add(name, self.model_source(name))
        try:
            served = self.deployment.language(name)
        except BaseException:
            self.deployment.remove(name)
            raise
        self._opened.add(name)
        return served

    def close_model(self, name: str) -> None:
        """Let a model go that was opened here; what the server was started with stays."""
        if name in self._opened:
            self._opened.discard(name)
            self.deployment.remove(name)
