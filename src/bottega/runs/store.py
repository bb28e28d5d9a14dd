"""The run folder: a run on disk.

    RUN/recipe.yaml      as written, with the overrides of its command as comments
    RUN/resolved.json    every key of the recipe, paths absolute
    RUN/place.json       versions, hardware, data files, choices made
    RUN/events.jsonl     one event per line
    RUN/checkpoints/     step-00000100/ …, complete or absent
    RUN/base/            the merged base of an adapter whose base was itself an adapter run
    RUN/model|adapter/   the result

Status and progress are derived from the events, never stored twice (`runs.summary`). Folders appear complete, with a
manifest of checksums, or not at all (`runs.atomic_files`). A run in progress holds a lock on `RUN/.lock` that the
kernel releases when its process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import yaml

from bottega import objectives
from bottega.errors import RunError
from bottega.events import Event
from bottega.objectives import nearest_builtin_options
from bottega.recipe.files import PATHS_NOTE, RESOLVED
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import CHECKPOINTS, MANIFEST, checksum, disk_errors, write_text_atomic

# Folders a result may be in.
RESULTS = ("model", "adapter")
# Folder of the checkpoint an adapter was trained on, where the recipe's base was a run with an adapter of its own.
MERGED_BASE = "base"
# Key of resolved.json: the built-in objective nearest to a custom one.
NEAREST_OBJECTIVE = "nearest_objective"
# Key of place.json: the checksum of recipe.yaml when the run started.
RECIPE_CHECKSUM = "recipe"
# Starts the comment in recipe.yaml below which the command's overrides are listed.
OVERRIDES_NOTE = "# Overridden on the command line:"

# What a run killed before it wrote recipe.yaml may leave behind: nothing anyone needs.
EARLY_FILES = (".lock", RESOLVED, f".{RESOLVED}.partial", ".recipe.yaml.partial")

# What a run that made no update may leave behind.
UNTRAINED_FILES = (
    "recipe.yaml",
    *EARLY_FILES,
    "place.json",
    ".place.json.partial",
    "events.jsonl",
    CHECKPOINTS,
    MERGED_BASE,
    "tensorboard",
)


class RunStore:
    """One run folder: `create` a new one or `open` an existing one. Both hold its lock until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._created_folders: list[Path] = []
        self._lock: TextIO | None = None
        self._events: TextIO | None = None

    @classmethod
    def create(cls, recipe: Recipe, text: str, out: Path | None) -> RunStore:
        """Create a run folder with the recipe in it, `out` or the next free one; a RunError if `out` is in use.

        The only folder overwritten is that of a run that failed before its first update.

        text  contents of recipe.yaml
        """
        folder = out if out is not None else new_run_folder(recipe.name)
        run = cls(folder)
        with disk_errors(folder):
            _refuse_taken(folder)
            run._created_folders = [path for path in (folder, *folder.parents) if not path.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                run._acquire_lock()
                for name in ("place.json", "events.jsonl"):
                    (folder / name).unlink(missing_ok=True)
                # recipe.yaml last: once it exists, the run can be resumed.
                write_text_atomic(folder / RESOLVED, json.dumps(_stored_document(recipe), indent=1))
                write_text_atomic(folder / "recipe.yaml", text)
            except OSError:
                run.discard()
                raise
        return run

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """Open an existing run to continue it; a RunError if it is not a run or another process is training it."""
        run = cls(check_run(folder))
        run._acquire_lock()
        return run

    def close(self) -> None:
        """Close the event log and release the lock."""
        for file in (self._events, self._lock):
            if file is not None:
                # Closing flushes; on a full disk that fails again, and the first failure has been reported.
                with contextlib.suppress(OSError):
                    file.close()
        self._events = self._lock = None

    @property
    def has_updates(self) -> bool:
        """Whether an update was made, so that there is something worth keeping."""
        return bool(self.checkpoints()) or any(event["type"] == "stepped" for event in read_events(self.folder))

    def discard(self) -> None:
        """Remove the files of a run that made no update, and the folders that `create` made for it."""
        for path in (self.folder / name for name in UNTRAINED_FILES):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for folder in self._created_folders:
            with contextlib.suppress(OSError):  # not empty: it has files of someone else
                folder.rmdir()
        self.close()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Recipe, place, events

    # Cached: it never changes, is asked for after every validation, and may execute the file of a custom objective.
    @cached_property
    def recipe(self) -> Recipe:
        return stored_recipe(self.folder)

    @property
    def place(self) -> dict[str, Any] | None:
        return stored_place(self.folder)

    def write_place(self, place: dict[str, Any]) -> None:
        """Write place.json, with the checksum of recipe.yaml added."""
        with disk_errors(self.folder):
            document = {**place, RECIPE_CHECKSUM: checksum(self.folder / "recipe.yaml")}
            write_text_atomic(self.folder / "place.json", json.dumps(document, indent=1))

    def record(self, event: Event) -> Event:
        """Append an event to the log, and return it."""
        with disk_errors(self.folder):
            if self._events is None:
                _end_torn_line(self.folder / "events.jsonl")
                self._events = (self.folder / "events.jsonl").open("a", encoding="utf-8")
            self._events.write(json.dumps(event.document()) + "\n")
            self._events.flush()
        return event

    @property
    def log_size(self) -> int:
        """Bytes of the log of events."""
        path = self.folder / "events.jsonl"
        return path.stat().st_size if path.exists() else 0

    def history(self) -> list[dict[str, Any]]:
        """See `history`."""
        return history(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the result is complete on disk.

        Not derived from the `finished` event: a process killed between the two leaves a result without the event.
        """
        return any((self.folder / name / MANIFEST).exists() for name in RESULTS)

    # Checkpoints

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint of an update is, or will be."""
        return self.folder / CHECKPOINTS / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, newest first."""
        return sorted((self.folder / CHECKPOINTS).glob("step-????????"), reverse=True)

    def saved_steps(self) -> list[int]:
        """The steps of complete checkpoints, newest first."""
        return [int(path.name.removeprefix("step-")) for path in self.checkpoints()]

    def prune(self, step: int, keep: set[int]) -> None:
        """Remove the checkpoints up to `step` except those of the steps in `keep`.

        One of a later step is left alone: it is damaged, since the run went on from an earlier one.
        """
        for old in (
            self.checkpoint_folder(saved) for saved in self.saved_steps() if saved <= step and saved not in keep
        ):
            # Rename first: a process killed during rmtree must not leave half a checkpoint under a complete one's name.
            old.rename(old.with_name(f".{old.name}.partial"))
        for partial in (self.folder / CHECKPOINTS).glob(".*.partial"):
            shutil.rmtree(partial)
        with contextlib.suppress(OSError):  # not empty, or never created
            (self.folder / CHECKPOINTS).rmdir()

    def _acquire_lock(self) -> None:
        with disk_errors(self.folder):
            self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunError(
                "another process is training it", where=str(self.folder), fix="wait for it to end, or stop it"
            ) from None


# Folders


def check_run(folder: Path) -> Path:
    """Return the folder if it is a run folder, else raise a RunError."""
    missing = [name for name in ("recipe.yaml", RESOLVED) if not (folder / name).exists()]
    if len(missing) == 1 and (folder / "events.jsonl").exists():
        raise RunError(f"{missing[0]} is missing", where=str(folder), fix="restore the file, or start another run")
    if missing:
        raise RunError("not a run folder", where=str(folder), fix="list the runs with: bottega runs")
    return folder


def new_run_folder(name: str) -> Path:
    """`runs/<name>-<n>` with the first number not taken by a run worth keeping."""
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists() and not _is_replaceable(folder):
        number += 1
    return folder


def _is_replaceable(folder: Path) -> bool:
    return _failed_before_training(folder) or not any(folder.iterdir())


def _refuse_taken(folder: Path) -> None:
    """Raise a RunError if the folder holds anything but leftovers of a run that never started."""
    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= set(EARLY_FILES)):
        return
    if _failed_before_training(folder):
        return
    if (folder / "recipe.yaml").exists() and (folder / RESOLVED).exists():
        fix = f"choose another --out, or continue it: bottega train --resume {folder}"
        raise RunError("already holds a run", where=str(folder), fix=fix)
    raise RunError("the folder is not empty", where=str(folder), fix="choose another --out")


def _failed_before_training(folder: Path) -> bool:
    """Whether it is a run that failed before its first update."""
    types = [event["type"] for event in read_events(folder)]
    return bool(types) and types[-1] == "failed" and "stepped" not in types and not (folder / CHECKPOINTS).exists()


# Events


def read_events(folder: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """Every event in the log, as documents (`events.parse` makes them values).

    Invalid lines are skipped: a killed process may leave the last one incomplete.

    start  bytes of the log to skip
    """
    path = folder / "events.jsonl"
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().split(b"\n")
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.keys() >= {"type", "step"}:
                yield event


def history(folder: Path) -> list[dict[str, Any]]:
    """The events that led to the present state: without the updates that a resume went back behind and repeated."""
    kept: list[dict[str, Any]] = []
    for event in read_events(folder):
        if event["type"] == "started" and event["resumed"]:
            kept = [earlier for earlier in kept if earlier["step"] <= event["step"]]
        kept.append(event)
    return kept


def _end_torn_line(path: Path) -> None:
    """Add the newline that a killed process did not write, so that the next event starts on a line of its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


# Recipe and place


def stored_recipe(folder: Path, *, own_code: bool = True) -> Recipe:
    """The recipe a run was started with; a RunError if resolved.json is damaged.

    own_code  import the file of a custom objective. Without it, the nearest built-in objective takes its place, which
              is enough to use the model: no code of a run folder is executed.
    """
    path = folder / RESOLVED
    document = _read_json(path, "model", "data", "objective")
    nearest = document.pop(NEAREST_OBJECTIVE, None)
    if nearest is not None and not own_code:
        document["objective"] = nearest
    return Recipe.parse(document, where=str(path))


def _stored_document(recipe: Recipe) -> dict[str, Any]:
    """The contents of resolved.json: the recipe, and the nearest built-in objective where it has a custom one."""
    document = recipe.document()
    return (
        document | {NEAREST_OBJECTIVE: nearest_builtin_options(recipe.objective)}
        if recipe.objective.kind == objectives.CUSTOM
        else document
    )


def stored_place(folder: Path) -> dict[str, Any] | None:
    """The versions, hardware, files and choices recorded when a run started; None before that."""
    path = folder / "place.json"
    return _read_json(path, "files", "choices") if path.exists() else None


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object the run wrote itself; a RunError if it cannot be read or lacks one of the keys."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        value = {key: value[key] for key in keys} | value
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"the file is damaged: {error}", where=str(path), fix="start a new run with its recipe.yaml"
        ) from None
    return dict(value)


def recipe_text(path: Path, overrides: tuple[str, ...]) -> str:
    """The text of a recipe file, plus comments with its folder and the overrides of the command."""
    notes = "".join(f"# {override}\n" for override in overrides)
    text = path.read_text(encoding="utf-8")
    # A recipe.yaml of another run has the note already: its paths resolve against the folder it was written in.
    if PATHS_NOTE not in text:
        text += f"\n{PATHS_NOTE}{path.absolute().parent}\n"
    return text + (f"{OVERRIDES_NOTE}\n{notes}" if notes else "")


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe built in memory, as YAML."""
    return yaml.safe_dump(recipe.document(), sort_keys=False)


def edited_recipe_note(folder: Path) -> str:
    """A note if recipe.yaml was edited since the run began, which a resume ignores; an empty string if not."""
    path, place = folder / "recipe.yaml", stored_place(folder)
    # Runs of earlier versions have no checksum.
    if place is None or place.get(RECIPE_CHECKSUM, "") in ("", checksum(path)):
        return ""
    what = f"{path} was edited since the run began, and the run continues with the original"
    return f"{what}; to use the edited recipe, start a new run: {restart_command(folder)}"


def restart_command(folder: Path) -> str:
    """The command that starts another run with the recipe and the overrides of the one in `folder`."""
    path = folder / "recipe.yaml"
    _, _, notes = path.read_text(encoding="utf-8", errors="replace").partition(f"{OVERRIDES_NOTE}\n")
    return shlex.join(["bottega", "train", str(path), *(line.removeprefix("# ") for line in notes.splitlines())])
