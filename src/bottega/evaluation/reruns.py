"""The same recipe trained with other seeds, to measure how much of a result is chance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bottega.progress import StatusCallback, update_reporter
from bottega.recipe.schema import Recipe
from bottega.training.trials import run_trial

# The folder inside a run that holds its reruns, one per seed.
SEEDS_FOLDER = "seeds"


def train_with_other_seeds(folder: Path, recipe: Recipe, count: int, progress: StatusCallback) -> Iterator[Path]:
    """The folders of `count` further runs of a recipe, each trained unless it is there already."""
    for number in range(1, count + 1):
        seed = recipe.seed + number
        run = folder / SEEDS_FOLDER / str(seed)
        # The split keeps the run's seed: every rerun must hold out the same rows.
        overrides = {"seed": seed, "data.seed": recipe.split_seed}
        # A finished run resumes to nothing; an interrupted one goes on.
        run_trial(recipe, run, overrides, on_event=update_reporter(progress, f"training again with seed {seed}"))
        yield run
