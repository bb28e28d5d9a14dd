"""A run at a glance: its state, what it took, its curves, its notes, and what can be done next.

Values only; a terminal or a page renders them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from bottega.events import Event, Failed, Noted, Started, Stepped, parse
from bottega.runs import store
from bottega.runs.curves import Curve, build_charts, peak_memory
from bottega.runs.store import check_run, stored_recipe
from bottega.runs.summary import missing_input, missing_result_file, summary

E = TypeVar("E", bound=Event)

# What can be done with a run in its present state. "restore": put back a file it needs; "rebuild": its result lost one.
Action = Literal["wait", "restore", "resume", "rebuild", "read report", "evaluate"]


@dataclass(frozen=True)
class NextStep:
    """Advice on a run: the reason in words, and the command that follows it, or the file to open."""

    action: Action
    message: str
    command: str

    def __str__(self) -> str:
        return f"{self.message}: {self.command}"


@dataclass(frozen=True)
class RunOverview:
    """All there is to see of a run.

    summary     status, progress, losses and result, as `bottega runs --json` prints them
    history     its events as documents, without updates that a resume repeated
    next_steps  what can be done with it, the most useful first
    """

    folder: Path
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    next_steps: Sequence[NextStep]

    def document(self) -> dict[str, Any]:
        """The overview as plain data."""
        return {**self.summary, "history": list(self.history)}

    @cached_property
    def events(self) -> list[Event]:
        """The history as typed events."""
        return [parse(document) for document in self.history]

    @property
    def started(self) -> Started | None:
        """The first start of the run; None if it has not started."""
        return next(iter(self._events_of(Started)), None)

    @cached_property
    def updates(self) -> list[Stepped]:
        return self._events_of(Stepped)

    @property
    def notes(self) -> list[Noted | Failed]:
        """Notes and failures, in order."""
        return [event for event in self.events if isinstance(event, (Noted, Failed))]

    @property
    def charts(self) -> dict[str, dict[str, Curve]]:
        """Title → name of a curve → (steps, values)."""
        return build_charts(self.events)

    @property
    def seconds(self) -> float:
        """Time taken by all updates."""
        return sum(update.seconds for update in self.updates)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the rows per second of training, shared ones counted each time; None before the first update."""
        return sum(update.tokens_real for update in self.updates) / self.seconds if self.seconds else None

    @property
    def shared_fraction(self) -> float:
        """Fraction of the tokens that were not computed because rows of a batch share a prefix."""
        return 1 - sum(update.tokens for update in self.updates) / max(
            sum(update.tokens_real for update in self.updates), 1
        )

    @property
    def peak_memory(self) -> tuple[int, int]:
        """Peak bytes of the host and of the accelerator; 0 if unknown."""
        return peak_memory(self.events)

    def _events_of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def show(run: str | Path) -> RunOverview:
    """The overview of a run, whatever state it is in; RunError if the folder is not a run's."""
    folder = check_run(Path(run))
    return RunOverview(folder, summary(folder), store.history(folder), next_steps(folder))


def history(run: str | Path) -> list[Event]:
    """The events of a run, typed, without updates that a resume repeated; RunError if the folder is not a run's."""
    return [parse(document) for document in store.history(check_run(Path(run)))]


def next_steps(folder: Path, known: Mapping[str, Any] | None = None) -> list[NextStep]:
    """What can be done with a run as it is; `known`: its summary, if there is one already."""
    state, run = known or summary(folder), shlex.quote(str(folder))
    if state["status"] == "running":
        return [NextStep("wait", "it is still running; look again", f"bottega show {run}")]
    if state["status"] != "finished":
        missing = missing_input(folder)
        if missing is not None:
            message = f"it cannot continue: {missing} is missing; restore that file, then look again"
            return [NextStep("restore", message, f"bottega show {run}")]
        return [NextStep("resume", "continue it", f"bottega train --resume {run}")]
    missing = missing_result_file(folder)
    if missing is not None:
        result = shlex.quote(f"{folder}/{state['result']}")
        message = f"its result is incomplete, {missing} is missing; write it again"
        return [NextStep("rebuild", message, f"rm -r {result}; bottega train --resume {run}")]
    if state["verdict"] is not None:
        return [NextStep("read report", "the full report", f"{folder}/report.html")]
    # Without validation rows of its own there is nothing to evaluate on.
    rows = "" if stored_recipe(folder, own_code=False).data.validation is not None else " --data FILE"
    return [NextStep("evaluate", "evaluate it", f"bottega evaluate {run}{rows}")]
