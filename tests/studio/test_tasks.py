"""Tasks: their states, their turn, an end in order, and what another server sees of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bottega
from bottega.studio.tasks import LOCK, RESULT, STARTED, TaskRunner, task_status

PATIENCE = 60


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[TaskRunner]:
    runner = TaskRunner(tmp_path / "tasks")
    runner.start()
    yield runner
    runner.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def rows(tmp_path: Path, count: int = 3) -> dict[str, str]:
    """The arguments of a task that reads rows."""
    path = tmp_path / "upload-1.jsonl"
    path.write_text('{"text": "the cat"}\n' * count, encoding="utf-8")
    return {"path": str(path), "file": "a.jsonl", "name": "mine", "folder": str(tmp_path / "data")}


def test_a_task_is_done_and_remembered(runner: TaskRunner, tmp_path: Path) -> None:
    task = runner.submit("import", rows(tmp_path), ("data", "mine"))
    wait_for(lambda: runner.document(task.id)["status"] == "done")
    document = runner.document(task.id)
    assert document["result"] == {"name": "mine", "version": 1}
    assert document["subject"] == ("data", "mine")
    # Another server, or the same after a restart.
    assert TaskRunner(runner.folder).document(task.id)["status"] == "done"
    runner.forget(task.id)
    with pytest.raises(KeyError):
        runner.document(task.id)


def test_a_failure_says_what_to_do(runner: TaskRunner, tmp_path: Path) -> None:
    arguments = rows(tmp_path, 0)
    task = runner.submit("import", arguments, ("data", "mine"))
    wait_for(lambda: runner.document(task.id)["status"] == "failed")
    failure = runner.document(task.id)["failure"]
    assert failure["kind"] == "DataError"
    assert failure["fix"]


def test_one_waits_for_the_other_and_can_be_taken_back(tmp_path: Path) -> None:
    runner = TaskRunner(tmp_path / "tasks")
    runner.folder.mkdir()
    first, second = (runner.submit("import", rows(tmp_path), ("data", name)) for name in ("a", "b"))
    assert [folder.name for folder in runner._due()] == [first.id]
    assert runner.stop(second.id)["status"] == "stopped"
    assert runner.document(first.id)["status"] == "waiting"
    assert [document["id"] for document in runner.documents()] == [second.id, first.id]


def test_a_process_that_was_killed_is_noticed(runner: TaskRunner, tmp_path: Path) -> None:
    task = runner.submit("import", rows(tmp_path, 2_000_000), ("data", "mine"))
    wait_for(lambda: task.id in runner._processes)
    assert runner.document(task.id)["status"] == "running"
    os.kill(runner._processes[task.id].pid, signal.SIGKILL)
    wait_for(lambda: runner.document(task.id)["status"] == "interrupted")


def test_a_task_ends_in_order_when_it_is_asked_to(runner: TaskRunner, tmp_path: Path) -> None:
    task = runner.submit("import", rows(tmp_path, 2_000_000), ("data", "mine"))
    wait_for(lambda: runner.document(task.id).get("progress") is not None)
    runner.stop(task.id)
    wait_for(lambda: runner.document(task.id)["status"] == "stopped")
    assert not list((tmp_path / "data").glob("mine/v*"))


def test_states_follow_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    assert task_status(folder) == "waiting"
    (folder / STARTED).touch()
    assert task_status(folder) == "interrupted"
    assert (folder / LOCK).exists()
    bottega.write_json(folder / RESULT, {})
    assert task_status(folder) == "done"
