"""TensorBoard files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bottega
from bottega.errors import RecipeError, RunError
from bottega.events import parse
from bottega.recipe.schema import Recipe
from bottega.runs.store import history
from bottega.runs.tensorboard import check_report_packages, event_writer, scalars
from making import make_recipe


def test_tensorboard_has_every_number(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    events = history(run)
    losses = [(event["step"], event["loss"]) for event in events if event["type"] == "stepped"]
    assert [(point.step, point.value) for point in found.Scalars("train/loss")] == [
        (step, pytest.approx(loss)) for step, loss in losses
    ]
    assert [point.step for point in found.Scalars("validation/accuracy")] == [0, 2, 4, 6]
    assert "train/device_use" not in found.Tags()["scalars"], "there is no accelerator"


def test_a_missing_report_package_is_an_error_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse(json.loads((run / "resolved.json").read_text()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="TensorBoard is not installed"):
        list(bottega.train(recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_resume_continues_the_same_files_or_names_the_missing_package(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    document = json.loads((run / "resolved.json").read_text()) | {"save": {"every": 3}}
    events = bottega.train(Recipe.parse(document), tmp_path / "run")
    for event in events:
        if event.step == 5:
            events.close()
            break
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(RecipeError, match="TensorBoard is not installed"):
            list(bottega.resume(tmp_path / "run"))
    list(bottega.resume(tmp_path / "run"))
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [point.step for point in found.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_report_folder_that_cannot_be_written_is_an_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    document = json.loads((run / "resolved.json").read_text())
    report = [{"kind": "tensorboard", "folder": str(tmp_path / "file" / "logs")}]
    with pytest.raises(RunError, match="TensorBoard files cannot be written"):
        list(bottega.train(Recipe.parse(document | {"report": report}), tmp_path / "run"))


def test_which_values_an_event_adds() -> None:
    step = {"type": "stepped", "step": 3, "loss": 2.0, "seconds": 2.0, "tokens_real": 100, "metrics": {"accuracy": 0.5}}
    found = scalars(parse(step))
    assert (found["train/loss"], found["train/tokens_per_second"], found["train/accuracy"]) == (2.0, 50.0, 0.5)
    assert "train/device_use" not in found
    assert scalars(parse({**step, "device_use": 0.4}))["train/device_use"] == 0.4
    validated = {"type": "validated", "step": 3, "loss": 1.5, "metrics": {"accuracy": 0.7}}
    assert scalars(parse(validated)) == {"validation/loss": 1.5, "validation/accuracy": 0.7}
    assert scalars(parse({"type": "noted", "step": 1})) == {}


def test_without_a_report_nothing_is_written(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    check_report_packages(recipe)
    with event_writer(recipe, tmp_path / "run") as write:
        write(parse({"type": "started", "step": 0}))
        write(parse({"type": "stepped", "step": 1, "seconds": 1.0}))
    assert not (tmp_path / "run").exists()
