"""The same recipe trained with other seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bottega.evaluation.evaluate import evaluate
from bottega.evaluation.reruns import train_with_other_seeds
from bottega.runs.store import stored_recipe


def test_reruns_have_other_seeds_and_the_same_held_out_rows_and_are_trained_once(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = stored_recipe(trained("sft")).model_copy(update={"seed": 7})
    recipe = type(recipe).parse(recipe.document() | {"optim": {"steps": 1, "examples": 2}, "evaluate": None})
    messages: list[str] = []

    def report(message: str, done: int = 0, total: int | None = None) -> None:
        messages.append(message)

    runs = list(train_with_other_seeds(tmp_path, recipe, 2, report))
    assert runs == [tmp_path / "seeds" / "8", tmp_path / "seeds" / "9"]
    assert [(one.seed, one.data.seed) for one in map(stored_recipe, runs)] == [(8, 7), (9, 7)]
    assert set(messages) == {"training again with seed 8", "training again with seed 9"}
    logs = [(run / "events.jsonl").read_bytes() for run in runs]
    assert list(train_with_other_seeds(tmp_path, recipe, 1, report)) == runs[:1]
    assert [(run / "events.jsonl").read_bytes() for run in runs] == logs


@pytest.mark.slow
def test_runs_with_other_seeds_hold_out_the_same_rows(trained: Callable[..., Path]) -> None:
    run = trained("sft", name="seeds")
    found = evaluate(run, against=[], seeds=3, rows=1000)
    assert len(found.seeds) == 3
    assert found.seeds[0] == next(one.run for one in found.estimates if one.metric == found.verdict.metric)
    assert "With 3 seeds accuracy is" in found.spread()
    held = [{record.prompt_key for record in evaluate(one, against=[], rows=1000).records}
            for one in (run, run / "seeds" / "1", run / "seeds" / "2")]  # fmt: skip
    assert held[0] == held[1] == held[2]
    before = (run / "seeds" / "1" / "events.jsonl").stat().st_mtime_ns
    assert evaluate(run, against=[], seeds=2, rows=1000).seeds == found.seeds[:2]
    assert (run / "seeds" / "1" / "events.jsonl").stat().st_mtime_ns == before, "what is there is not trained again"
