"""The process of a task: its verbs, its errors, and a stop that is noticed."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.studio import worker
from bottega.studio.tasks import FAILURE, PROGRESS, RESULT, STOP, TASK, StudioTask


def make_task(folder: Path, verb: str, arguments: dict[str, Any]) -> Path:
    folder.mkdir()
    bottega.write_json(folder / TASK, asdict(StudioTask("task-1", verb, arguments, ("data", "mine"))))
    return folder


def test_errors_are_described_whatever_raised_them() -> None:
    told = worker.describe(bottega.DataError("bad", where="row 1", fix="mend it"))
    assert told == {"kind": "DataError", "what": "bad", "where": "row 1", "fix": "mend it"}
    assert worker.describe(MemoryError())["kind"] == "OutOfMemory"
    assert worker.describe(ValueError("odd"))["what"] == "ValueError: odd"


def test_a_verb_leaves_a_result_or_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: Any, tell: Any) -> Any:
        raise ValueError("odd")

    monkeypatch.setitem(worker.VERBS, "echo", lambda arguments, tell: arguments)
    monkeypatch.setitem(worker.VERBS, "fail", fail)
    good, bad = make_task(tmp_path / "good", "echo", {"a": 1}), make_task(tmp_path / "bad", "fail", {})
    assert worker.main(good) == 0
    assert bottega.read_json(good / RESULT) == {"a": 1}
    assert worker.main(bad) == 1
    assert bottega.read_json(bad / FAILURE)["kind"] == "Unexpected"


def test_progress_is_told_now_and_then_and_a_stop_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(arguments: Any, tell: Any) -> Any:
        for number in range(1000):
            tell("working", number, 1000)
            time.sleep(0.01)
        return {}

    monkeypatch.setitem(worker.VERBS, "work", work)
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0.0)
    folder = make_task(tmp_path / "task", "work", {})
    (folder / STOP).touch()
    assert worker.main(folder) == 1
    assert bottega.read_json(folder / FAILURE) == {"stopped": True}
    assert bottega.read_json(folder / PROGRESS)["message"] == "working"
