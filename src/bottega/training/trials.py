"""Trials: variants of a recipe, trained in this process or in one of their own, and followed while they run.

Used to calibrate a plan, to extend a learning curve, and to repeat a run with other seeds. What to vary, and what to
conclude from the results, is up to the caller.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.events import Event, Finished, Stepped, parse
from bottega.recipe.schema import Recipe
from bottega.runs.resolve import resolve
from bottega.runs.store import read_events, recipe_yaml
from bottega.training.loop import Stop, never, resume, train

EventCallback = Callable[[Event], None]

# Seconds between two reads of the event log of a trial in another process.
POLL_INTERVAL = 0.2


@dataclass(frozen=True)
class TrialResult:
    """A trial that has ended.

    folder  its run folder
    recipe  the variant that was trained
    events  every event of the run; of a resumed trial, those since the resume
    error   why its process ended early; empty if it did not, and for a trial in this process, which raises instead
    """

    folder: Path
    recipe: Recipe
    events: tuple[Event, ...]
    error: str = ""

    @property
    def updates(self) -> list[Stepped]:
        return [event for event in self.events if isinstance(event, Stepped)]

    @property
    def finished(self) -> Finished | None:
        """The last event of a trial with a result; None for one that was stopped or failed."""
        return next((event for event in reversed(self.events) if isinstance(event, Finished)), None)


def vary(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a recipe document in which each dotted key (`optim.lr`) has another value.

    A value replaces the old one as a whole, sections and lists too. A section that is absent is created.
    """
    varied = copy.deepcopy(dict(document))
    for key, value in overrides.items():
        *sections, name = key.split(".")
        parent = varied
        for section in sections:
            if parent.get(section) is None:
                parent[section] = {}
            parent = parent[section]
        parent[name] = copy.deepcopy(value)
    return varied


def run_trial(
    recipe: Recipe,
    folder: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    on_event: EventCallback | None = None,
    stop: Stop = never,
) -> TrialResult:
    """Train a variant of a recipe in this process; a trial that `folder` already holds is resumed.

    overrides  values by dotted key, as for `vary`
    on_event   called with each event as it happens
    stop       asked between micro-batches: once true, the trial saves a checkpoint and ends, to be resumed later.
               Decide it in `on_event` to end a trial early by its metrics.
    """
    variant = Recipe.parse(vary(recipe.document(), overrides or {}))
    run = resume(folder, stop=stop) if resolve(folder).is_run else train(variant, folder, stop=stop)
    events = []
    with closing(run):  # an exception in `on_event` releases the run's lock at once
        for event in run:
            events.append(event)
            if on_event is not None:
                on_event(event)
    return TrialResult(folder, variant, tuple(events))


def run_trial_process(
    recipe: Recipe,
    folder: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    on_event: EventCallback | None = None,
    stop: Stop = never,
    environment: Mapping[str, str] | None = None,
) -> TrialResult:
    """Train a variant of a recipe in a process of its own, for its memory to be measured or its crash to be survived.

    The new process runs `bottega train` on a recipe written beside `folder`, which must not exist yet. If this call is
    interrupted, the process is killed.

    on_event     called with each event, up to POLL_INTERVAL late
    stop         asked at the same interval: once true, the process is asked to end and saves a checkpoint
    environment  variables to set in the new process
    """
    variant = Recipe.parse(vary(recipe.document(), overrides or {}))
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe_path, log_path = (folder.with_name(f"{folder.name}.{suffix}") for suffix in ("yaml", "log"))
    recipe_path.write_text(recipe_yaml(variant), encoding="utf-8")
    command = [sys.executable, "-m", "bottega", "train", str(recipe_path), "--out", str(folder)]
    events: list[Event] = []

    def read_new_events() -> None:
        for document in list(read_events(folder))[len(events) :]:
            events.append(parse(document))
            if on_event is not None:
                on_event(events[-1])

    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
        try:
            stopping = False
            while process.poll() is None:
                read_new_events()
                if not stopping and stop():
                    stopping = True
                    process.terminate()
                time.sleep(POLL_INTERVAL)
        finally:
            process.kill()
            process.wait()
    read_new_events()
    failed = process.returncode != 0 and not stopping
    return TrialResult(folder, variant, tuple(events), _failure_reason(log_path) if failed else "")


def _failure_reason(log: Path) -> str:
    """Why a process ended early, from its output."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    # A process killed by the kernel for its memory leaves no message.
    return lines[-1].strip() if lines else "it was killed, for example because memory ran out"
