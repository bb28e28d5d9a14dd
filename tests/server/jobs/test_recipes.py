"""Jobs as recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_rows import CHAT

from bottega.server.jobs.recipes import make_recipe, resolve_hyperparameters, updates_per_pass
from making import write_jsonl


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"), [(10, 10, 1), (3, 25, 1), (34, 3, 1), (1000, 3, 2), (9000, 2, 18), (30_000, 1, 60)]
)
def test_auto_becomes_numbers(rows: int, epochs: int, batch: int) -> None:
    found = resolve_hyperparameters("supervised", {"n_epochs": "auto"}, rows)
    assert found == {"n_epochs": epochs, "batch_size": batch, "learning_rate_multiplier": 1.0}
    asked = {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 0.5, "beta": 0.3}
    assert resolve_hyperparameters("dpo", asked, rows) == asked
    assert resolve_hyperparameters("dpo", {}, rows)["beta"] == 0.1


def test_a_recipe_says_what_the_job_does(llama: Path, tmp_path: Path) -> None:
    training = write_jsonl(tmp_path / "rows.jsonl", [CHAT] * 10)
    numbers: dict[str, Any] = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 2.0}
    recipe = make_recipe(
        name="ftjob-1", method="supervised", source=str(llama), seed=5, rows=10, hyperparameters=numbers,
        training=training, validation=None,
    )  # fmt: skip
    assert (recipe.objective.kind, recipe.seed, recipe.model.base) == ("sft", 5, str(llama))
    assert (recipe.optim.lr, recipe.optim.epochs, recipe.optim.examples) == (4e-4, 3, 4)
    assert updates_per_pass(10, numbers) == 3
    assert recipe.save is not None
    assert recipe.save.every == 3
