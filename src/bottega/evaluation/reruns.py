"""The same recipe trained with other seeds, to measure how much of a result is chance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bottega.progress import StatusCallback, report_updates
from bottega.recipe.schema import Recipe
from bottega.runs.resolve import resolve
from bottega.training.loop import resume, train

# The folder inside a run that holds its reruns, one per seed.
SEEDS_FOLDER = "seeds"


def train_with_other_seeds(folder: Path, recipe: Recipe, count: int, progress: StatusCallback) -> Iterator[Path]:
    """The folders of `count` further runs of a recipe, each trained unless it is there already."""
    for number in range(1, count + 1):
        seed = recipe.seed + number
        run = folder / SEEDS_FOLDER / str(seed)
        document = recipe.document()
        # The split keeps the run's seed: every rerun must hold out the same rows.
        document["data"]["seed"] = recipe.split_seed
        rerun = Recipe.parse({**document, "seed": seed})
        # A finished run resumes to nothing; an interrupted one goes on.
        events = resume(run) if resolve(run).is_run else train(rerun, run)
        for _ in report_updates(events, progress, f"training again with seed {seed}"):
            pass
        yield run
