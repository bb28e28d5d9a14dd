"""How far a run has come, read from the events in its folder: its losses, its best step, whether it should stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bottega.runs.store import RunStore

GENERAL = "general_loss"
"""The metric of a validation by which a guard sees what is forgotten."""


@dataclass(frozen=True)
class RunHistory:
    """Answers from the history of a run; read anew each time, as the history is the only state."""

    store: RunStore

    @property
    def last_step(self) -> int:
        return max((event["step"] for event in self.store.history() if event["type"] == "stepped"), default=0)

    @property
    def validations(self) -> list[dict[str, Any]]:
        return [event for event in self.store.history() if event["type"] == "validated"]

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, validation loss) after each update that was validated; the start is no candidate for the best."""
        return [(event["step"], event["loss"]) for event in self.validations if event["step"] > 0]

    @property
    def best(self) -> int | None:
        """The step with the lowest validation loss, the earliest of equals."""
        return min(self.losses, key=lambda pair: (pair[1], pair[0]), default=(None, 0.0))[0]

    def was_validated(self, step: int) -> bool:
        return any(event["step"] == step for event in self.validations)

    def was_best(self, step: int) -> bool:
        return any(event["best"] for event in self.validations if event["step"] == step)

    @property
    def forgetting(self) -> str:
        """Why a run ends that forgets more than it may; empty for any other."""
        guard = self.store.recipe.guard
        most = None if guard is None else guard.stop_when
        losses = [event["metrics"][GENERAL] for event in self.validations] if most else []
        if most is None or len(losses) < 2 or losses[-1] - losses[0] < most:
            return ""
        return f"the loss on general rows has risen by {losses[-1] - losses[0]:.3f}, and guard.stop_when is {most:g}"

    @property
    def should_stop(self) -> bool:
        """Whether the recipe's conditions for an early end are met."""
        if self.forgetting:
            return True
        evaluate = self.store.recipe.evaluate
        if evaluate is None or evaluate.stop_after is None:
            return False
        best = self.best
        return best is not None and sum(step > best for step, _ in self.losses) >= evaluate.stop_after
