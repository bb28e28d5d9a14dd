"""What state a run is in: status, progress, losses and result, derived from its events and files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
from pathlib import Path
from typing import Any, TypeVar

from bottega import events
from bottega.errors import BottegaError
from bottega.events import Event, Finished, Started, Stepped, Validated
from bottega.recipe.files import RESOLVED
from bottega.runs.atomic_files import MANIFEST
from bottega.runs.store import RESULTS, read_events, stored_place, stored_recipe

E = TypeVar("E", bound=Event)


def summary(folder: Path) -> dict[str, Any]:
    """A run in one line: status, progress, losses, result; the JSON of `bottega runs`."""
    # All events, also those of updates that a resume repeated: their time was spent.
    log = [events.parse(document) for document in read_events(folder)]
    started, finished = _last(log, Started), _last(log, Finished)
    stepped, validated = _last(log, Stepped), _last(log, Validated)
    validation_loss = finished.validation_loss if finished else validated.loss if validated else None
    return {
        "run": str(folder),
        "name": stored_recipe(folder, own_code=False).name,
        "status": _status(folder, log[-1].type if log else "created"),
        "step": stepped.step if stepped else 0,
        "steps": started.steps if started else None,
        "loss": _finite(stepped.loss) if stepped else None,
        "validation_loss": _finite(validation_loss),
        "metrics": validated.metrics if validated else {},
        "seconds": sum(_finite(event.seconds) or 0.0 for event in log if isinstance(event, Stepped)),
        "result": next((name for name in RESULTS if (folder / name / MANIFEST).exists()), None),
        "verdict": _verdict_sentence(folder),
        # Earlier versions wrote events without a time, which is 0 after parsing.
        "time": (log[-1].time if log else 0) or folder.stat().st_mtime,
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


def _last(log: list[Event], kind: type[E]) -> E | None:
    return next((event for event in reversed(log) if isinstance(event, kind)), None)


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
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return str(report["verdict"]["sentence"])
    return None
