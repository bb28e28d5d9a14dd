"""Progress of long work."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import bottega
from bottega import progress
from bottega.batch import Row
from bottega.recipe.schema import Recipe
from bottega.sampling import Sampling
from making import WORDS, make_model, write_jsonl


def test_scoring_and_generation_report_rows(tmp_path: Path) -> None:
    model = bottega.load(make_model(tmp_path, "llama"), dtype="float32")
    ids = np.arange(5, 12)
    rows = [Row(ids[:size], np.arange(size - 1), ids[1:size], np.ones(size - 1, np.float32)) for size in (3, 4, 5)]
    scored, written = list[tuple[int, int]](), list[tuple[int, int]]()
    model.logp(rows, lambda done, total: scored.append((done, total)))
    prompts = [[5, 6], [7], [8, 9, 10]]
    model.writer.write(
        prompts, Sampling(tokens=4), continuations=2, on_progress=lambda done, total: written.append((done, total))
    )
    assert scored[-1] == (3, 3)
    assert written == [(done, 6) for done in range(1, 7)]


def test_update_reporter_counts_the_updates_of_a_run(tmp_path: Path) -> None:
    recipe = Recipe.parse(
        {
            "model": {"base": str(make_model(tmp_path / "model", "llama"))},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", [{"text": word} for word in WORDS]))},
            "objective": {"kind": "causal"},
            "optim": {"steps": 3},
        }
    )
    said = list[tuple[str, int, int | None]]()

    def tell(words: str, done: int = 0, total: int | None = None) -> None:
        said.append((words, done, total))

    report = progress.update_reporter(tell, "training")
    for event in bottega.train(recipe, tmp_path / "run"):
        report(event)
    assert said == [("training", 0, None), *(("training", step, 3) for step in (1, 2, 3))]
