"""Views of a run: curves in the terminal, TensorBoard files, and hardware figures of its events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.cli.run_view import draw_chart
from bottega.errors import RecipeError, RunError
from bottega.events import parse
from bottega.recipe.schema import Recipe
from bottega.runs.curves import build_charts
from bottega.runs.store import history
from making import make_model, write_jsonl


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    model = make_model(folder / "model", "llama")
    rows = [
        {"text": f"the {word} {one}", "label": word}
        for word in ("red", "blue")
        for one in ("cat", "dog", "mat", "tree")
    ]
    document: dict[str, Any] = {
        "name": "shown",
        "model": {"base": str(model)},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.5},
        "objective": {"kind": "classify"},
        "optim": {"steps": 6, "examples": 4},
        "evaluate": {"every": 2},
        "report": ["tensorboard"],
    }
    list(bottega.train(Recipe.parse(document), folder / "run"))
    return folder / "run"


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


def test_an_update_records_cpu_and_memory(run: Path) -> None:
    for event in history(run):
        if event["type"] == "stepped":
            assert 0 < event["cpu"] < 64
            assert event["memory"] > 1e8
            assert event["device_use"] is None


def test_charts_show_the_losses_and_metrics_of_the_events(run: Path) -> None:
    found = build_charts(list(map(parse, history(run))))
    assert list(found) == ["loss", "accuracy"]
    steps, losses = found["loss"]["validation"]
    validated = [event for event in history(run) if event["type"] == "validated"]
    assert list(zip(steps, losses, strict=True)) == [(event["step"], event["loss"]) for event in validated]
    assert "training" in draw_chart("loss", found["loss"], 80)


def test_long_curves_are_averaged() -> None:
    events = [{"type": "stepped", "step": step, "loss": float(step), "metrics": {}} for step in range(1, 1001)]
    steps, losses = build_charts(list(map(parse, events)))["loss"]["training"]
    assert len(steps) == 160
    assert list(losses) == list(steps) == sorted(steps)
    assert (steps[0], steps[-1]) == (4, 997.5), "means of the first seven and the last six"


def test_show(run: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(run)])
    assert done.exit_code == 0, done.output
    for words in ("finished, update 6 of 6", "validation loss", "fields text, label", f"bottega evaluate {run}"):
        assert words in done.stdout
    found = json.loads(CliRunner().invoke(app, ["show", str(run), "--json"]).stdout)
    assert found["status"] == "finished"
    assert len(found["history"]) == len(history(run))


def test_show_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert done.exit_code == 2
    assert "not a run folder" in done.stderr
