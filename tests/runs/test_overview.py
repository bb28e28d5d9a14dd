"""A run at a glance: what it took, its events, and what can be done with it next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import bottega
from bottega.cli.commands import app
from bottega.errors import RunError
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import commit_folder
from bottega.runs.overview import history, next_steps, show
from bottega.runs.store import RunStore


def test_an_update_records_cpu_and_memory(run: Path) -> None:
    for event in show(run).updates:
        assert 0 < event.cpu < 64
        assert event.memory > 1e8
        assert event.device_use is None


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


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_with_a_missing_data_file_is_not_advised_to_resume(recipe: Path) -> None:
    for event in bottega.train(Recipe.load(recipe, "optim.steps=3"), Path("run")):
        if event.type == "stepped":
            break
    assert "bottega train --resume run" in call("show", "run").stdout
    (recipe.parent / "rows.jsonl").unlink()
    shown = call("show", "run").stdout.replace("\n", "")
    assert "--resume" not in shown
    assert f"{recipe.parent}/rows.jsonl is missing" in shown


def test_a_run_without_validation_rows_is_advised_to_evaluate_on_other_data(recipe: Path) -> None:
    assert call("train", recipe, "optim.steps=1", "data.validation=null").exit_code == 0
    assert "bottega evaluate runs/run-1 --data FILE" in call("show", "runs/run-1").stdout


STEP = {"type": "stepped", "loss": 2.0, "seconds": 2.0, "tokens": 60, "tokens_real": 100, "memory": 3, "metrics": {}}
STARTED = {"type": "started", "step": 0, "steps": 4}
FINISHED = {"type": "finished", "step": 2, "result": "model"}


def finish(run: Path) -> Path:
    commit_folder(run / "model", lambda folder: (folder / "model.safetensors").touch())
    return run


def actions(run: Path) -> list[tuple[str, str]]:
    return [(step.action, step.command) for step in next_steps(run)]


def test_what_a_run_took(log: Callable[..., Path]) -> None:
    noted, failed = {"type": "noted", "step": 0, "message": "a"}, {"type": "failed", "step": 2, "message": "b"}
    found = show(log(STARTED, noted, {**STEP, "step": 1}, {**STEP, "step": 2, "device_memory": 7}, failed))
    assert found.started is not None
    assert found.started.steps == 4
    assert [update.step for update in found.updates] == [1, 2]
    assert [note.message for note in found.notes] == ["a", "b"]
    assert (found.seconds, found.tokens_per_second) == (4.0, 50.0)
    assert found.shared_fraction == pytest.approx(0.4)
    assert found.peak_memory == (3, 7)
    assert found.document()["history"] == found.history
    assert found.document()["status"] == "failed"
    assert list(found.charts["loss"]) == ["training"]


def test_a_run_without_updates_has_no_speed(log: Callable[..., Path]) -> None:
    found = show(log())
    assert (found.started, found.tokens_per_second, found.shared_fraction, found.charts) == (None, None, 1.0, {})


def test_events_that_a_resume_repeated_are_left_out(log: Callable[..., Path]) -> None:
    again = [{**STARTED, "step": 1, "resumed": True}, {**STEP, "step": 2, "loss": 1.0}]
    run = log(STARTED, {**STEP, "step": 1}, {**STEP, "step": 2}, *again)
    stepped = [event for event in history(run) if event.type == "stepped"]
    assert [(event.step, event.loss) for event in stepped] == [(1, 2.0), (2, 1.0)]
    with pytest.raises(RunError, match="not a run folder"):
        history(run.parent)


def test_what_can_be_done_with_a_run(log: Callable[..., Path], tmp_path: Path) -> None:
    run = log(STARTED, {**STEP, "step": 1})
    assert actions(run) == [("resume", f"bottega train --resume {run}")]
    rows = tmp_path / "rows.jsonl"
    (run / "place.json").write_text(json.dumps({"files": {str(rows): "0"}, "choices": {}}))
    ((action, command),) = actions(run)
    assert (action, command) == ("restore", f"bottega show {run}")
    assert f"{rows} is missing" in next_steps(run)[0].message
    with RunStore.open(run):
        assert actions(run) == [("wait", f"bottega show {run}")]
    finish(run)
    assert actions(run) == [("evaluate", f"bottega evaluate {run} --data FILE")]
    (run / "model" / "model.safetensors").unlink()
    assert actions(run) == [("rebuild", f"rm -r {run}/model; bottega train --resume {run}")]
    assert str(next_steps(run)[0]).startswith("its result is incomplete, model/model.safetensors is missing")


def test_a_report_is_read_and_validation_rows_are_evaluated_on(log: Callable[..., Path], tmp_path: Path) -> None:
    data = {"train": "a.jsonl", "validation": 0.2}
    run = finish(log(STARTED, FINISHED, name="held-out", data=data))
    assert actions(run) == [("evaluate", f"bottega evaluate {run}")]
    (run / "report.json").write_text(json.dumps({"verdict": {"sentence": "It is better."}}))
    assert actions(run) == [("read report", f"{run}/report.html")]
    odd = finish(run.rename(tmp_path / "with space"))
    (odd / "report.json").unlink()
    assert actions(odd)[0][1] == f"bottega evaluate '{odd}'", "it can be pasted into a shell"
