"""The schedule of a run: after which updates it validates, saves a checkpoint or logs sampled answers."""

from __future__ import annotations

from dataclasses import dataclass

from bottega.recipe.schema import Recipe

# Validations of a run without `evaluate.every`, and rounds of sampled answers that become events.
VALIDATIONS = 10


@dataclass(frozen=True)
class Due:
    """The schedule of a run of `steps` updates, of which `passes` at a time train on the same sampled answers."""

    recipe: Recipe
    steps: int
    passes: int

    def validation(self, step: int) -> bool:
        if self.recipe.evaluate is None:
            return False
        # The last update always counts: its weights may be the result.
        every = self.recipe.evaluate.every or max(1, self.steps // VALIDATIONS)
        return step % every == 0 or step == self.steps

    def answers(self, step: int) -> bool:
        """Whether sampled answers are logged as an event: about ten times in a run."""
        rounds, index = self.steps // self.passes, (step - 1) // self.passes
        return index % max(1, rounds // VALIDATIONS) == 0

    def checkpoint(self, step: int) -> bool:
        return self.recipe.save is not None and step % self.recipe.save.every == 0

    @property
    def stops_early(self) -> bool:
        return self.recipe.evaluate is not None and self.recipe.evaluate.stop_after is not None

    @property
    def kept(self) -> int:
        """How many of the newest checkpoints are kept."""
        return self.recipe.save.keep if self.recipe.save else 1

    @property
    def keeps_best(self) -> bool:
        """Whether the checkpoint with the best validation loss is kept."""
        return self.stops_early or self.recipe.save is not None
