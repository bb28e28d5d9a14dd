"""Single updates of a recipe in this process, computed as `bottega train` computes them."""

from __future__ import annotations

import time
from functools import partial
from itertools import islice
from pathlib import Path

from bottega.batch import Batch, count_units
from bottega.data.sampler import Update
from bottega.hardware.memory import configure_allocator
from bottega.recipe.schema import Recipe
from bottega.seeding import derive
from bottega.training.needs import micro_batches
from bottega.training.setup import build


class Stepper:
    """The first updates of a recipe in `folder`; each can be made in any order and repeatedly."""

    def __init__(self, folder: Path, recipe: str, updates: int) -> None:
        configure_allocator()
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        self.run = build(Recipe.load(folder / "recipe.yaml"))
        self.updates = list(islice(self.run.sampler.updates(), updates))
        # This also fills the cache of reference log-probabilities: steps cost what they do after the first epoch.
        self.batches: list[list[Batch]] = [micro_batches(self.run, update.examples) for update in self.updates]

    def step(self, index: int) -> float:
        """Make the update; returns its seconds."""
        started = time.perf_counter()
        update: Update = self.updates[index]
        batches = micro_batches(self.run, update.examples)
        engine, objective = self.run.engine, self.run.recipe.objective
        seed = partial(derive, self.run.recipe.seed, "dropout", update.step)
        engine.accumulate(objective, batches, count_units(batches), step=update.step, dropout_seed=seed)
        engine.update(self.run.choices.lr, step=update.step)
        return time.perf_counter() - started

    def tokens(self, index: int) -> int:
        """Number of tokens that the update computes."""
        return sum(len(batch.tokens) for batch in self.batches[index])
