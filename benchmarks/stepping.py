"""A recipe's updates one at a time, in this process, as `bottega train` would do them."""

from __future__ import annotations

import time
from functools import partial
from itertools import islice
from pathlib import Path

from bottega.batch import Batch, count_units
from bottega.data.sampler import Update
from bottega.recipe.schema import Recipe
from bottega.seeding import derive
from bottega.training.needs import micro_batches
from bottega.training.setup import build


class Stepper:
    """The first updates of the recipe in `folder`, to be done in any order and as often as wanted."""

    def __init__(self, folder: Path, recipe: str, updates: int) -> None:
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        self.run = build(Recipe.load(folder / "recipe.yaml"))
        self.updates = list(islice(self.run.sampler.updates(), updates))
        # What a reference says is looked up from the second time on, as in all epochs but the first.
        self.batches: list[list[Batch]] = [micro_batches(self.run, update.examples) for update in self.updates]

    def step(self, number: int) -> float:
        """Do update `number`; returns its seconds."""
        started = time.perf_counter()
        update: Update = self.updates[number]
        batches = micro_batches(self.run, update.examples)
        engine, objective = self.run.engine, self.run.recipe.objective
        seed = partial(derive, self.run.recipe.seed, "dropout", update.step)
        engine.accumulate(objective, batches, count_units(batches), step=update.step, dropout_seed=seed)
        engine.update(self.run.choices.lr, step=update.step)
        return time.perf_counter() - started

    def tokens(self, number: int) -> int:
        """Tokens that update `number` computes."""
        return sum(len(batch.tokens) for batch in self.batches[number])
