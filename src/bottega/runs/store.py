"""The run folder: what a run is, on disk.

    RUN/recipe.yaml      as written, with its overrides noted
    RUN/resolved.json    every key of the recipe, paths absolute
    RUN/place.json       versions, hardware, data, choices made
    RUN/events.jsonl     one event a line
    RUN/checkpoints/     step-00000100/ …, complete or absent
    RUN/base/            what an adapter was trained on, where that was another run's adapter with its base
    RUN/model|adapter/   the result

State is derived from events, never stored twice. A folder of files appears under its name complete, with a manifest
of checksums, or not at all. A run in progress holds a lock on `RUN/.lock` that dies with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import yaml

from bottega.errors import BottegaError, CheckpointError, RunError, disk_full, full
from bottega.events import Event
from bottega.objectives import ours
from bottega.recipe.schema import PATHS_FROM, Recipe

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
RESULTS = ("model", "adapter")
MERGED = "base"
"""What a run began from, where that was another run's adapter with its base."""

NEAREST = "nearest_objective"
"""Key of resolved.json."""

RECIPE = "recipe"
"""Key of place.json: the checksum of recipe.yaml."""

OVERRIDDEN = "# Overridden on the command line:"
"""Begins what recipe.yaml says of the command."""

BEGINNINGS = (".lock", "resolved.json", ".resolved.json.partial", ".recipe.yaml.partial")
"""What a run killed before its recipe.yaml stood may leave: nothing anyone needs."""


OWN = (
    "recipe.yaml",
    *BEGINNINGS,
    "place.json",
    ".place.json.partial",
    "events.jsonl",
    CHECKPOINTS,
    MERGED,
    "tensorboard",
)
"""What a run that never began may leave."""


class RunStore:
    """One run folder. `create` a new one or `open` one that exists; both hold its lock until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Path] = []
        self._lock: TextIO | None = None
        self._events: TextIO | None = None

    @classmethod
    def create(cls, recipe: Recipe, written: str, out: Path | None) -> RunStore:
        """A new run folder with the recipe in it; a RunError when `out` is taken.

        The only folder written over is that of a run that failed before its first update: it holds nothing.
        """
        folder = out if out is not None else free_folder(recipe.name)
        run = cls(folder)
        with disk_errors(folder):
            _refuse_taken(folder)
            run._made = [path for path in (folder, *folder.parents) if not path.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                run._take()
                for name in ("place.json", "events.jsonl"):
                    (folder / name).unlink(missing_ok=True)
                # recipe.yaml last: once it is there, the run can be resumed.
                _write(folder / "resolved.json", json.dumps(_document(recipe), indent=1))
                _write(folder / "recipe.yaml", written)
            except OSError:
                run.discard()
                raise
        return run

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """An existing run, to continue it; a RunError when it is not one or is running elsewhere."""
        run = cls(check_run(folder))
        run._take()
        return run

    def close(self) -> None:
        for file in (self._events, self._lock):
            if file is not None:
                with contextlib.suppress(OSError):  # what a full disk did not take was told of already
                    file.close()
        self._events = self._lock = None

    @property
    def begun(self) -> bool:
        """Whether there is anything to keep: an update was made."""
        return bool(self.checkpoints()) or any(event["type"] == "stepped" for event in read_events(self.folder))

    def discard(self) -> None:
        """Remove what a run that never began has left, and the folders that were made for it."""
        for path in (self.folder / name for name in OWN):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # there is something else in it by now
                folder.rmdir()
        self.close()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Recipe, place, events

    @property
    def recipe(self) -> Recipe:
        return stored_recipe(self.folder)

    @property
    def place(self) -> dict[str, Any] | None:
        return stored_place(self.folder)

    def write_place(self, place: dict[str, Any]) -> None:
        with disk_errors(self.folder):
            document = {**place, RECIPE: checksum(self.folder / "recipe.yaml")}
            _write(self.folder / "place.json", json.dumps(document, indent=1))

    def record(self, event: Event) -> Event:
        """Append an event to the log, and return it."""
        with disk_errors(self.folder):
            if self._events is None:
                _end_torn_line(self.folder / "events.jsonl")
                self._events = (self.folder / "events.jsonl").open("a", encoding="utf-8")
            self._events.write(json.dumps(event.document()) + "\n")
            self._events.flush()
        return event

    def history(self) -> list[dict[str, Any]]:
        return history(self.folder)

    @property
    def finished(self) -> bool:
        """The result stands, complete. The event may be missing where the end came between the two."""
        return any((self.folder / name / MANIFEST).exists() for name in RESULTS)

    # Checkpoints

    def checkpoint(self, step: int) -> Path:
        return self.folder / CHECKPOINTS / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, the newest first."""
        return sorted((self.folder / CHECKPOINTS).glob("step-????????"), reverse=True)

    def saved_steps(self) -> list[int]:
        """The steps of complete checkpoints, the newest first."""
        return [int(path.name.removeprefix("step-")) for path in self.checkpoints()]

    def prune(self, step: int, spared: set[int]) -> None:
        """Remove all checkpoints up to `step` but those of the steps `spared`; one from after it is damaged."""
        for old in (self.checkpoint(saved) for saved in self.saved_steps() if saved <= step and saved not in spared):
            # Out of sight first: a checkpoint is complete or absent, also to one who kills us now.
            old.rename(old.with_name(f".{old.name}.partial"))
        for left in (self.folder / CHECKPOINTS).glob(".*.partial"):
            shutil.rmtree(left)
        with contextlib.suppress(OSError):  # it is not empty, or was never there
            (self.folder / CHECKPOINTS).rmdir()

    def _take(self) -> None:
        with disk_errors(self.folder):
            self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunError(
                "another process is running it", where=str(self.folder), fix="wait for it to end, or stop it"
            ) from None


def check_run(folder: Path) -> Path:
    """The folder, if it is a run's; else a RunError."""
    lost = [name for name in ("recipe.yaml", "resolved.json") if not (folder / name).exists()]
    if len(lost) == 1 and (folder / "events.jsonl").exists():
        raise RunError(f"a run without its {lost[0]}", where=str(folder), fix="put it back, or start another run")
    if lost:
        raise RunError("not a run folder", where=str(folder), fix="list the runs with: bottega runs")
    return folder


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Every event in the log; a line that is none, as one torn by a sudden end, is passed over."""
    path = folder / "events.jsonl"
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.keys() >= {"type", "step"}:
                yield event


def history(folder: Path) -> list[dict[str, Any]]:
    """The events that led to the present state: what a resume took back is left out."""
    kept: list[dict[str, Any]] = []
    for event in read_events(folder):
        if event["type"] == "started" and event["resumed"]:
            kept = [earlier for earlier in kept if earlier["step"] <= event["step"]]
        kept.append(event)
    return kept


def commit(folder: Path, write: Callable[[Path], None]) -> None:
    """Make `folder` out of what `write` puts into an empty one: complete with manifest, or not there at all.

    Files reach the disk before the name does. On a full disk what was begun is removed and a CheckpointError says so.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        sums = {path.name: checksum(path) for path in sorted(partial.iterdir()) if path.is_file()}
        _write(partial / MANIFEST, json.dumps(sums, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if disk_full(error):
            raise _full(error, folder, _run_of(folder)) from error
        if isinstance(error, OSError):
            with disk_errors(_run_of(folder)):
                raise
        raise
    if folder.exists():
        # A damaged folder of that name, passed over by a resume.
        shutil.rmtree(folder)
    partial.rename(folder)
    _sync(folder.parent)


def verify(folder: Path) -> str:
    """What is wrong with a committed folder; empty when every file is there and whole."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or damaged"
    for name, wanted in sums.items():
        if not (folder / name).exists():
            return f"{name} is missing"
        if checksum(folder / name) != wanted:
            return f"{name} is damaged"
    return ""


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_taken(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= set(BEGINNINGS)):
        return
    if _worthless(folder):
        return
    if (folder / "recipe.yaml").exists() and (folder / "resolved.json").exists():
        fix = f"choose another --out, or continue it: bottega train --resume {folder}"
        raise RunError("holds a run already", where=str(folder), fix=fix)
    raise RunError("is not an empty folder", where=str(folder), fix="choose another --out")


@contextlib.contextmanager
def disk_errors(run: Path) -> Iterator[None]:
    """Name what the file system refuses."""
    try:
        yield
    except (OSError, ValueError) as error:
        if disk_full(error):
            raise _full(error, run, run) from None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        fix = "choose another --out; to go on with a run, copy its folder to where it may be written to"
        raise RunError(f"cannot be written: {reason}", where=str(run), fix=fix) from None


def _full(error: BaseException, where: Path, run: Path) -> CheckpointError:
    return CheckpointError(
        f"{full(error)}; what was saved before is intact",
        where=str(where),
        fix=f"free some space, then: bottega train --resume {run}",
    )


def _read(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object with these keys that the run wrote itself."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        value = {key: value[key] for key in keys} | value
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"is damaged: {error}", where=str(path), fix="start a new run with its recipe.yaml") from None
    return dict(value)


def _run_of(folder: Path) -> Path:
    return folder.parent.parent if folder.parent.name == CHECKPOINTS else folder.parent


def _write(path: Path, text: str) -> None:
    """The file, whole or as it was before."""
    with whole(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when the block is done; where it is not, the name stands for what it did."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        _sync(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_torn_line(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def free_folder(name: str) -> Path:
    """`runs/<name>-<n>` with the first number that is not taken by a run worth keeping."""
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists() and not _worthless(folder) and any(folder.iterdir()):
        number += 1
    return folder


def _worthless(folder: Path) -> bool:
    """A run that failed before its first update."""
    types = [event["type"] for event in read_events(folder)]
    return bool(types) and types[-1] == "failed" and "stepped" not in types and not (folder / CHECKPOINTS).exists()


def written(path: Path, overrides: tuple[str, ...]) -> str:
    """A recipe's own text, with the folder it stood in, and the overrides it was run with, noted at the end."""
    notes = "".join(f"# {override}\n" for override in overrides)
    text = path.read_text(encoding="utf-8")
    if PATHS_FROM not in text:
        text += f"\n{PATHS_FROM}{path.absolute().parent}\n"
    return text + (f"{OVERRIDDEN}\n{notes}" if notes else "")


def edited(folder: Path) -> str:
    """What to say of a recipe.yaml that was edited since its run began; empty where it was not."""
    path, place = folder / "recipe.yaml", stored_place(folder)
    if place is None or place.get(RECIPE, "") in ("", checksum(path)):
        return ""
    what = f"{path} was edited since the run began, which goes on as it was; start anew with it"
    return f"{what}: {begin_anew(folder)}"


def begin_anew(folder: Path) -> str:
    """The command that starts a run like the one in `folder`, in another."""
    path = folder / "recipe.yaml"
    _, _, notes = path.read_text(encoding="utf-8", errors="replace").partition(f"{OVERRIDDEN}\n")
    return shlex.join(["bottega", "train", str(path), *(line.removeprefix("# ") for line in notes.splitlines())])


def as_yaml(recipe: Recipe) -> str:
    """A recipe that was never a file, as one."""
    return yaml.safe_dump(recipe.document(), sort_keys=False)


def _document(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a run keeps it: beside an objective of the user's own, the one of ours that is nearest."""
    found = recipe.document()
    return found | {NEAREST: ours(recipe.objective)} if recipe.objective.kind == "custom" else found


def stored_recipe(folder: Path, *, own_code: bool = True) -> Recipe:
    """The recipe a run was started with.

    own_code  run the file of an objective of the user's own; a model is used without it, as the objective of ours would
    """
    path = folder / "resolved.json"
    document = _read(path, "model", "data", "objective")
    nearest = document.pop(NEAREST, None)
    if nearest is not None and not own_code:
        document["objective"] = nearest
    return Recipe.parse(document, where=str(path))


def stored_place(folder: Path) -> dict[str, Any] | None:
    """What a run found and chose when it started; None before that."""
    path = folder / "place.json"
    return _read(path, "files", "choices") if path.exists() else None


def summary(folder: Path) -> dict[str, Any]:
    """A run in a line: status, progress, losses, result."""
    events = list(read_events(folder))
    last: dict[str, Any] = events[-1] if events else {"type": "created", "step": 0, "time": folder.stat().st_mtime}
    of_type = {event["type"]: event for event in events}
    started, finished = of_type.get("started", {}), of_type.get("finished", {})
    return {
        "run": str(folder),
        "name": stored_recipe(folder, own_code=False).name,
        "status": _status(folder, last["type"]),
        "step": of_type.get("stepped", {}).get("step", 0),
        "steps": started.get("steps"),
        "loss": of_type.get("stepped", {}).get("loss"),
        "validation_loss": finished.get("validation_loss", of_type.get("validated", {}).get("loss")),
        "metrics": of_type.get("validated", {}).get("metrics", {}),
        "seconds": sum(event["seconds"] for event in events if event["type"] == "stepped"),
        "result": next((name for name in RESULTS if (folder / name / MANIFEST).exists()), None),
        "verdict": _verdict(folder),
        "time": last.get("time", folder.stat().st_mtime),
    }


def _verdict(folder: Path) -> str | None:
    """The sentence of the run's report, where there is one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return str(report["verdict"]["sentence"])
    return None


def gone(folder: Path) -> str | None:
    """A file of rows or weights that the run began with and cannot go on without; None where all are there."""
    place = stored_place(folder) or {"files": {}}
    return next((path for path in place["files"] if not Path(path).exists()), None)


def missing(folder: Path) -> str | None:
    """A file of a run's result that is not there any more; None where all are, or there is no result."""
    for result in (folder / name for name in RESULTS if (folder / name / MANIFEST).exists()):
        with contextlib.suppress(OSError, ValueError):
            sums = json.loads((result / MANIFEST).read_text(encoding="utf-8"))
            return next((f"{result.name}/{name}" for name in sums if not (result / name).exists()), None)
    return None


def summaries(parent: Path) -> Iterator[dict[str, Any]]:
    """Every run in a folder, or the run that it is; the one that moved last at the end."""
    found = []
    for path in (*parent.glob("*/resolved.json"), *parent.glob("resolved.json")):
        with contextlib.suppress(BottegaError, OSError):  # one damaged run does not hide the others
            found.append(summary(path.parent))
    yield from sorted(found, key=lambda run: run["time"])


def _status(folder: Path, last: str) -> str:
    """finished, failed, running or stopped (its process is gone)."""
    if any((folder / name / MANIFEST).exists() for name in RESULTS):
        return "finished"
    if (folder / ".lock").exists():
        with (folder / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return "running"
    return "failed" if last == "failed" else "stopped"
