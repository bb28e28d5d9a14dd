"""What state a run is in: status, progress, losses and result, derived from its events and files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from bottega import events
from bottega.errors import BottegaError
from bottega.events import Event, Finished, Started, Stepped, Validated
from bottega.recipe.files import RESOLVED
from bottega.runs.atomic_files import MANIFEST
from bottega.runs.store import RESULTS, read_events, stored_place, stored_recipe

E = TypeVar("E", bound=Event)


@dataclass
class RunState:
    """What a summary needs to know of the events of a run.

    by_type  the latest event of each type; `last`: of all
    seconds  time spent on updates, also on those that a resume repeated
    """

    by_type: dict[type[Event], Event] = field(default_factory=dict)
    last: Event | None = None
    seconds: float = 0.0

    def add(self, event: Event) -> None:
        """Take the next event."""
        self.by_type[type(event)] = self.last = event
        if isinstance(event, Stepped):
            self.seconds += _finite(event.seconds) or 0.0

    def latest(self, kind: type[E]) -> E | None:
        """The latest event of a type."""
        found = self.by_type.get(kind)
        return found if isinstance(found, kind) else None


def summary(folder: Path) -> dict[str, Any]:
    """A run in one line: status, progress, losses, result; the JSON of `bottega runs`."""
    state = RunState()
    for document in read_events(folder):
        state.add(events.parse(document))
    return summarize(folder, state)


def summarize(folder: Path, state: RunState, name: str | None = None) -> dict[str, Any]:
    """The same of events that were read already; `name`: that of the recipe, if it is known."""
    started, finished = state.latest(Started), state.latest(Finished)
    stepped, validated = state.latest(Stepped), state.latest(Validated)
    validation_loss = finished.validation_loss if finished else validated.loss if validated else None
    return {
        "run": str(folder),
        "name": name or stored_recipe(folder, own_code=False).name,
        "status": _status(folder, state.last.type if state.last else "created"),
        "step": stepped.step if stepped else 0,
        "steps": started.steps if started else None,
        "loss": _finite(stepped.loss) if stepped else None,
        "validation_loss": _finite(validation_loss),
        "metrics": validated.metrics if validated else {},
        "seconds": state.seconds,
        "result": next((name for name in RESULTS if (folder / name / MANIFEST).exists()), None),
        "verdict": _verdict_sentence(folder),
        # Earlier versions wrote events without a time, which is 0 after parsing.
        "time": (state.last.time if state.last else 0) or folder.stat().st_mtime,
    }


def list_runs(parent: str | Path = "runs") -> list[dict[str, Any]]:
    """The summary of every run in a folder, or of the folder itself if it is a run; the most recent last."""
    summaries = []
    for path in (*Path(parent).glob(f"*/{RESOLVED}"), *Path(parent).glob(RESOLVED)):
        with contextlib.suppress(BottegaError, OSError):  # a damaged run must not hide the others
            summaries.append(summary(path.parent))
    return sorted(summaries, key=lambda run: float(run["time"]))


def missing_input(folder: Path) -> str | None:
    """A file of rows or weights that the run started with and that no longer exists; None if all do."""
    place = stored_place(folder) or {"files": {}}
    return next((path for path in place["files"] if not Path(path).exists()), None)


def missing_result_file(folder: Path) -> str | None:
    """A file of the run's result, by its path in the run folder, that no longer exists; None if all do."""
    # Names only: checksums would read gigabytes for a command that lists runs.
    for result in (folder / name for name in RESULTS if (folder / name / MANIFEST).exists()):
        with contextlib.suppress(OSError, ValueError):
            checksums = json.loads((result / MANIFEST).read_text(encoding="utf-8"))
            return next((f"{result.name}/{name}" for name in checksums if not (result / name).exists()), None)
    return None


def _finite(value: float | None) -> float | None:
    """The value, or None for NaN and infinities, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


def _status(folder: Path, last_event: str) -> str:
    """finished, failed, running or stopped (its process is gone)."""
    # The result decides, not the last event: a process may be killed between the two.
    if any((folder / name / MANIFEST).exists() for name in RESULTS):
        return "finished"
    if (folder / ".lock").exists():
        # A shared lock is refused while a training process holds the exclusive one.
        with (folder / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return "running"
    return "failed" if last_event == "failed" else "stopped"


def _verdict_sentence(folder: Path) -> str | None:
    """The verdict of the run's report; None without a report or verdict."""
    path = folder / "report.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _read_sentence(path, path.stat().st_mtime_ns)
    return None


@lru_cache(1000)
def _read_sentence(path: Path, changed: int) -> str:
    """That of a file as it was at a time: a page of the studio asks every second, and reports are large."""
    return str(json.loads(path.read_text(encoding="utf-8"))["verdict"]["sentence"])
