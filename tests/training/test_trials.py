"""Trials: variants of a recipe are trained, followed, ended early and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.events import Event, Finished, Saved, Stepped
from bottega.recipe.schema import Recipe
from bottega.training.trials import _failure_reason, run_trial, run_trial_process, vary
from making import WORDS, make_model, write_jsonl


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe.parse(
        {
            "model": {"base": str(make_model(tmp_path / "model", "llama")), "dtype": "float32"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", [{"text": word} for word in WORDS]))},
            "objective": {"kind": "causal"},
            "optim": {"steps": 4, "examples": 4},
        }
    )


def losses(events: tuple[Event, ...]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Stepped)]


def test_vary_replaces_values_and_leaves_the_original_alone() -> None:
    document = {"optim": {"lr": 1.0, "steps": 2}, "evaluate": None, "model": {"shape": {"a": 1, "b": 2}}}
    varied = vary(document, {"optim.lr": 2.0, "evaluate.every": 3, "model.shape": {"a": 4}, "seed": 1})
    assert varied["optim"] == {"lr": 2.0, "steps": 2}
    assert varied["evaluate"] == {"every": 3}
    assert varied["model"]["shape"] == {"a": 4}
    assert varied["seed"] == 1
    assert document == {"optim": {"lr": 1.0, "steps": 2}, "evaluate": None, "model": {"shape": {"a": 1, "b": 2}}}


def test_a_trial_trains_the_variant(recipe: Recipe, tmp_path: Path) -> None:
    trial = run_trial(recipe, tmp_path / "trial", {"optim.lr": 3e-3, "seed": 5})
    variant = Recipe.parse({**recipe.document(), "seed": 5, "optim": {**recipe.document()["optim"], "lr": 3e-3}})
    assert trial.recipe == variant
    assert isinstance(trial.finished, Finished)
    assert losses(trial.events) == losses(tuple(bottega.train(variant, tmp_path / "run")))
    assert not trial.error


def test_a_trial_that_is_stopped_early_saves_and_can_be_resumed(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[Event] = []
    stopped = run_trial(
        recipe,
        tmp_path / "trial",
        on_event=seen.append,
        stop=lambda: any(isinstance(event, Stepped) and event.step == 2 for event in seen),
    )
    assert [update.step for update in stopped.updates] == [1, 2]
    assert stopped.finished is None
    assert isinstance(stopped.events[-1], Saved)
    assert tuple(seen) == stopped.events
    resumed = run_trial(recipe, tmp_path / "trial")
    assert [update.step for update in resumed.updates] == [3, 4]
    whole = run_trial(recipe, tmp_path / "whole")
    assert losses(stopped.events) + losses(resumed.events) == losses(whole.events)


def test_an_error_in_the_callback_releases_the_run(recipe: Recipe, tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Stepped):
            raise KeyError

    with pytest.raises(KeyError):
        run_trial(recipe, tmp_path / "trial", on_event=fail)
    assert run_trial(recipe, tmp_path / "trial").finished is not None


@pytest.mark.slow
def test_a_trial_in_a_process_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[Event] = []
    trial = run_trial_process(recipe, tmp_path / "trial", {"seed": 5}, on_event=seen.append)
    assert trial.finished is not None
    assert tuple(seen) == trial.events
    assert losses(trial.events) == pytest.approx(losses(run_trial(recipe, tmp_path / "here", {"seed": 5}).events))
    failed = run_trial_process(recipe, tmp_path / "failed", {"model.base": str(tmp_path / "nowhere")})
    assert "nowhere" in failed.error
    assert failed.finished is None


def test_why_a_process_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    assert _failure_reason(log) == "it was killed, for example because memory ran out"
    log.write_text("note: x\nerror: no such file\n  → look\n")
    assert _failure_reason(log) == "no such file"
    log.write_text("Traceback\nValueError: odd\n")
    assert _failure_reason(log) == "ValueError: odd"
