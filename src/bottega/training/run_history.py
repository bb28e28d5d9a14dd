"""Losses, best step and stopping conditions of a run, read from its events."""

from __future__ import annotations

from dataclasses import dataclass

from bottega.events import Event, Noted, Stepped, Validated, parse
from bottega.runs.store import RunStore

# The validation metric that shows forgetting: the loss on held-out replay rows.
GENERAL = "general_loss"


@dataclass(frozen=True)
class RunHistory:
    """The history of a run. Nothing is cached: the events are the only state, which a resume continues from."""

    store: RunStore

    @property
    def events(self) -> list[Event]:
        return [parse(document) for document in self.store.history()]

    @property
    def notes(self) -> list[Noted]:
        return [event for event in self.events if isinstance(event, Noted)]

    @property
    def updates(self) -> list[Stepped]:
        return [event for event in self.events if isinstance(event, Stepped)]

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
