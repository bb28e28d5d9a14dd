"""What a run does after which update: validate, save, show answers, keep checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from bottega.recipe.schema import Recipe

VALIDATIONS = 10
"""How often a run validates where `evaluate.every` does not say."""


@dataclass(frozen=True)
class Due:
    """The plan of a run of `steps` updates, of which `passes` learn from the same round of answers."""

    recipe: Recipe
    steps: int
    passes: int

    def validation(self, step: int) -> bool:
        if self.recipe.evaluate is None:
            return False
        every = self.recipe.evaluate.every or max(1, self.steps // VALIDATIONS)
        return step % every == 0 or step == self.steps

    def answers(self, step: int) -> bool:
        """Whether sampled answers become an event: about ten times in a run."""
        rounds, index = self.steps // self.passes, (step - 1) // self.passes
        return index % max(1, rounds // VALIDATIONS) == 0

    def checkpoint(self, step: int) -> bool:
        return self.recipe.save is not None and step % self.recipe.save.every == 0

    @property
    def stops_early(self) -> bool:
        return self.recipe.evaluate is not None and self.recipe.evaluate.stop_after is not None

    @property
    def kept(self) -> int:
        """How many of the newest checkpoints stay."""
        return self.recipe.save.keep if self.recipe.save else 1

    @property
    def keeps_best(self) -> bool:
        """Whether the best weights so far must be kept."""
        return self.stops_early or self.recipe.save is not None
