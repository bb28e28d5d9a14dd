"""The state of a run, derived from its events and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bottega.runs.atomic_files import MANIFEST, commit_folder
from bottega.runs.store import RunStore
from bottega.runs.summary import list_runs, missing_input, missing_result_file, summary

EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "started", "step": 0, "steps": 9},
    {"type": "stepped", "step": 1, "loss": 3.0, "seconds": 1.5},
    {"type": "validated", "step": 1, "loss": 2.5, "metrics": {"accuracy": 0.5}},
    {"type": "stepped", "step": 2, "loss": 2.0, "seconds": 0.5, "time": 77.0},
)


def finish(run: Path, name: str = "model") -> None:
    commit_folder(run / name, lambda folder: (folder / "weights").touch())


def test_a_run_in_one_line(log: Callable[..., Path]) -> None:
    run = log(*EVENTS)
    assert summary(run) == {
        "run": str(run), "name": "logged", "status": "stopped", "step": 2, "steps": 9, "loss": 2.0,
        "validation_loss": 2.5, "metrics": {"accuracy": 0.5}, "seconds": 2.0, "result": None, "verdict": None,
        "time": 77.0,
    }  # fmt: skip


def test_time_of_repeated_updates_was_spent_too(log: Callable[..., Path]) -> None:
    resumed = {"type": "started", "step": 1, "steps": 9, "resumed": True}
    assert summary(log(*EVENTS, resumed, EVENTS[-1]))["seconds"] == 2.5


def test_a_finished_run_has_the_loss_of_the_weights_it_kept(log: Callable[..., Path]) -> None:
    run = log(*EVENTS, {"type": "finished", "step": 2, "validation_loss": 1.25})
    finish(run, "adapter")
    found = summary(run)
    assert (found["status"], found["result"], found["validation_loss"]) == ("finished", "adapter", 1.25)


def test_numbers_that_json_does_not_have_are_none(log: Callable[..., Path]) -> None:
    nan = float("nan")
    run = log(
        {"type": "stepped", "step": 1, "loss": nan, "seconds": nan}, {"type": "validated", "step": 1, "loss": nan}
    )
    found = summary(run)
    assert (found["loss"], found["validation_loss"], found["seconds"]) == (None, None, 0.0)
    json.dumps(found, allow_nan=False)


def test_status(log: Callable[..., Path]) -> None:
    created, failed = log(), log(*EVENTS, {"type": "failed", "step": 2}, name="failed")
    assert (summary(created)["status"], summary(created)["step"], summary(created)["steps"]) == ("stopped", 0, None)
    assert summary(failed)["status"] == "failed"
    with RunStore.open(failed):
        assert summary(failed)["status"] == "running", "its process holds the lock"
    finish(failed)
    assert summary(failed)["status"] == "finished", "the result decides, not the last event"


@pytest.mark.parametrize("text", ["[]", "{", '{"verdict": null}', '{"verdict": {}}'])
def test_a_damaged_report_has_no_verdict(text: str, log: Callable[..., Path]) -> None:
    run = log(*EVENTS)
    (run / "report.json").write_text(json.dumps({"verdict": {"sentence": "It is better."}}))
    assert summary(run)["verdict"] == "It is better."
    (run / "report.json").write_text(text)
    assert summary(run)["verdict"] is None


def test_runs_are_listed_by_time_and_damaged_ones_left_out(log: Callable[..., Path], tmp_path: Path) -> None:
    late, early, odd = (
        log({"type": "stepped", "step": 1, "time": time}, name=name)
        for name, time in (("late", 9.0), ("early", 2.0), ("odd", 5.0))
    )
    (odd / "resolved.json").write_text("{")
    assert [found["name"] for found in list_runs(tmp_path)] == ["early", "late"]
    assert [found["run"] for found in list_runs(late)] == [str(late)]
    assert list_runs(tmp_path / "none") == []
    assert early.exists()


def test_files_that_are_missing_are_named(log: Callable[..., Path], tmp_path: Path) -> None:
    run, rows = log(*EVENTS), tmp_path / "rows.jsonl"
    assert missing_input(run) is None
    assert missing_result_file(run) is None
    (run / "place.json").write_text(json.dumps({"files": {str(rows): "0"}, "choices": {}}))
    assert missing_input(run) == str(rows)
    rows.touch()
    assert missing_input(run) is None
    finish(run)
    assert missing_result_file(run) is None
    (run / "model" / "weights").unlink()
    assert missing_result_file(run) == "model/weights"
    (run / "model" / MANIFEST).write_text("{")
    assert missing_result_file(run) is None, "an unreadable manifest names no file"
