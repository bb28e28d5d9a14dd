"""The same recipe with other seeds, to see how much of a result is luck."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bottega.progress import StatusCallback, report_updates
from bottega.recipe.schema import Recipe
from bottega.runs.resolve import resolve
from bottega.training.loop import resume, train

SEEDS_FOLDER = "seeds"
"""Where they stand in a run."""


def train_with_other_seeds(folder: Path, recipe: Recipe, count: int, tell: StatusCallback) -> Iterator[Path]:
    """`count` further runs of a recipe, trained where they are not there yet; the same rows are held out of each."""
    for number in range(1, count + 1):
        seed = recipe.seed + number
        run = folder / SEEDS_FOLDER / str(seed)
        document = recipe.document()
        document["data"]["seed"] = recipe.split_seed
        given = Recipe.parse({**document, "seed": seed})
        events = resume(run) if resolve(run).is_run else train(given, run)
        for _ in report_updates(events, tell, f"training again with seed {seed}"):
            pass
        yield run
