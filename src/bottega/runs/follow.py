"""A run that is watched: of its log only what is new is read, however long it is."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from bottega.events import parse
from bottega.runs.store import stored_recipe
from bottega.runs.summary import RunState, summarize


class RunFollower:
    """The events of a run as far as they were read.

    history     those that led to the present state, as documents: without updates that a resume repeated
    generation  how often a resume has taken some back; whoever has seen these reads from the beginning again
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name: str | None = None
        self._restart()

    def _restart(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.generation, self._offset, self._file, self._state = 0, 0, 0, RunState()

    def read(self) -> None:
        """Read what has come since the last time; a line that is not complete yet is left for the next."""
        path = self.folder / "events.jsonl"
        size, file = (path.stat().st_size, path.stat().st_ino) if path.exists() else (0, 0)
        if size < self._offset or (self._offset and file != self._file):  # another run took the folder
            generation, self._name = self.generation, None
            self._restart()
            self.generation = generation + 1
        self._file = file
        if size == self._offset:
            return
        with path.open("rb") as log:
            log.seek(self._offset)
            data = log.read(size - self._offset)
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            # A process that was killed may have left a line incomplete, which the next one ended.
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and document.keys() >= {"type", "step"}:
                    self._add(document)

    def _add(self, document: dict[str, Any]) -> None:
        if document["type"] == "started" and document.get("resumed"):
            kept = [earlier for earlier in self.history if earlier["step"] <= document["step"]]
            self.generation += len(kept) < len(self.history)
            self.history = kept
        self.history.append(document)
        self._state.add(parse(document))

    def summary(self) -> dict[str, Any]:
        """The run in one line, as of the last `read`: the JSON of `bottega runs`."""
        self._name = self._name or stored_recipe(self.folder, own_code=False).name
        return summarize(self.folder, self._state, self._name)
