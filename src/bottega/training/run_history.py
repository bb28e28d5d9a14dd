"""Losses, best step and stopping conditions of a run, read from its events."""

from __future__ import annotations

from bottega.events import Event, Noted, Started, Stepped, Validated, parse
from bottega.runs.store import RunStore, read_events

# The validation metric that shows forgetting: the loss on held-out replay rows.
GENERAL = "general_loss"


class RunHistory:
    """The history of a run, as far as its log goes at each access; every event is read and parsed once.

    The log is the only state, so that a resumed run decides as an uninterrupted one does. Updates are not kept in
    memory, as a run may have millions: `updates` reads them again.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._events: list[Event] = []
        self._read_bytes = 0

    @property
    def events(self) -> list[Event]:
        """The events that led to the present state, without the updates; see `runs.store.history`."""
        # The process that holds the run's lock reads here, and it logs whole lines: none is half-written now.
        size = self.store.log_size
        if size > self._read_bytes:
            for document in read_events(self.store.folder, self._read_bytes):
                event = parse(document)
                if isinstance(event, Started) and event.resumed:
                    # A resume repeats the updates after its checkpoint.
                    self._events = [earlier for earlier in self._events if earlier.step <= event.step]
                if not isinstance(event, Stepped):
                    self._events.append(event)
            self._read_bytes = size
        return self._events

    @property
    def notes(self) -> list[Noted]:
        return [event for event in self.events if isinstance(event, Noted)]

    @property
    def updates(self) -> list[Stepped]:
        """Every update that led to the present state, read from the log at each access."""
        return [event for event in map(parse, self.store.history()) if isinstance(event, Stepped)]

    @property
    def validations(self) -> list[Validated]:
        return [event for event in self.events if isinstance(event, Validated)]

    @property
    def last_step(self) -> int:
        return max((event.step for event in self.updates), default=0)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, validation loss) of each validation after an update; the one before the first never counts as best."""
        return [(event.step, event.loss) for event in self.validations if event.step > 0]

    @property
    def best(self) -> int | None:
        """The step with the lowest validation loss, the earliest if several are equal."""
        return min(self.losses, key=lambda pair: (pair[1], pair[0]), default=(None, 0.0))[0]

    def was_validated(self, step: int) -> bool:
        return any(event.step == step for event in self.validations)

    def was_best(self, step: int) -> bool:
        """Whether the validation after `step` was the best up to then."""
        return any(event.best for event in self.validations if event.step == step)

    @property
    def forgetting(self) -> str:
        """Why the run must end, if it has forgotten more than `guard.stop_when`; else empty."""
        guard = self.store.recipe.guard
        limit = None if guard is None else guard.stop_when
        losses = [event.metrics[GENERAL] for event in self.validations] if limit else []
        if limit is None or len(losses) < 2 or losses[-1] - losses[0] < limit:
            return ""
        return f"the loss on replay rows has risen by {losses[-1] - losses[0]:.3f}, and guard.stop_when is {limit:g}"

    @property
    def should_stop(self) -> bool:
        """Whether a stopping condition of the recipe is met."""
        if self.forgetting:
            return True
        evaluate = self.store.recipe.evaluate
        if evaluate is None or evaluate.stop_after is None:
            return False
        best = self.best
        return best is not None and sum(step > best for step, _ in self.losses) >= evaluate.stop_after
