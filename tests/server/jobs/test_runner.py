"""Jobs over a restart of the server: none is lost, and a run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from test_rows import CHAT

import bottega
from bottega.server.app import Backend, open_backend
from bottega.server.jobs import runner
from bottega.server.jobs.runner import _base_name
from bottega.server.jobs.worker import RUN
from bottega.server.state import Job, JobEvent, StoredFile, TunedModel
from making import write_jsonl


def open_server(folder: Path) -> tuple[Backend, bottega.Deployment]:
    deployment = bottega.Deployment(bottega.DeploymentSettings(dtype="float32"))
    return open_backend(folder, deployment), deployment


def submit(backend: Backend, base: Path, folder: Path, epochs: int) -> str:
    digest, size = backend.storage.write_bytes(write_jsonl(folder / "rows.jsonl", [CHAT] * 12).read_bytes())
    backend.tables.add(StoredFile(id="file-1", filename="a", purpose="fine-tune", bytes=size, digest=digest))
    job = Job(
        id="ftjob-1", model="base", source=str(base), training_file="file-1", seed=1, method="supervised", request="r",
        hyperparameters={"n_epochs": epochs, "batch_size": 2},
    )  # fmt: skip
    backend.jobs.submit(job)
    return job.id


def wait(backend: Backend, job_id: str, *states: str) -> Job:
    for _ in range(1200):
        job = backend.tables.get(Job, job_id)
        assert job is not None
        if job.status in states:
            return job
        time.sleep(0.05)
    raise AssertionError(job.status)


def test_a_running_job_goes_on_after_a_restart(llama: Path, tmp_path: Path) -> None:
    """Its updates are told once, and its model is served by the new server, and by the one after it."""
    backend, deployment = open_server(tmp_path / "state")
    job_id = submit(backend, llama, tmp_path, epochs=40)
    wait(backend, job_id, "running")
    while not (tmp_path / "state" / "jobs" / job_id / RUN / "events.jsonl").exists():
        time.sleep(0.05)
    backend.close()
    deployment.close()
    backend, deployment = open_server(tmp_path / "state")
    job = wait(backend, job_id, "succeeded", "failed")
    assert job.status == "succeeded", job.error
    events, _ = backend.tables.page(JobEvent, limit=10_000, after=None, job_id=job_id)
    steps = [event.data["step"] for event in events if event.data]
    assert sorted(steps) == list(range(1, 241))
    assert any("has ended" in event.message for event in events)
    assert job.fine_tuned_model in deployment.names
    backend.close()
    deployment.close()
    backend, deployment = open_server(tmp_path / "state")
    names = set(deployment.names)
    damaged = next(iter(name for name in names if ":ckpt-" in name))
    rows, _ = backend.tables.page(TunedModel, limit=100, after=None)
    assert names == {row.name for row in rows} >= {job.fine_tuned_model}
    # One whose folder is gone does not keep the others from being served.
    with backend.tables.transaction() as session:
        for model in session.scalars(select(TunedModel).filter_by(name=damaged)):
            model.folder = "nowhere"
    backend.close()
    deployment.close()
    backend, deployment = open_server(tmp_path / "state")
    assert set(deployment.names) == names - {damaged}
    # The run goes with the last of its models.
    for name in names:
        assert backend.jobs.forget(name)
    assert not (tmp_path / "state" / "jobs" / job_id / RUN).exists()
    assert not backend.jobs.forget("nope")
    backend.close()
    deployment.close()


def test_a_job_that_waits_can_be_cancelled(llama: Path, tmp_path: Path) -> None:
    backend, deployment = open_server(tmp_path / "state")
    job_id = submit(backend, llama, tmp_path, epochs=1)
    assert backend.jobs.ask(job_id, "cancel").status == "cancelled"
    with pytest.raises(ValueError, match="is cancelled and cannot be paused"):
        backend.jobs.ask(job_id, "pause")
    time.sleep(1)
    assert wait(backend, job_id, "cancelled").fine_tuned_model is None
    backend.close()
    deployment.close()


def test_names_of_models_that_were_tuned_before() -> None:
    assert _base_name("ft:base:local:x:abc:ckpt-step-3") == "base"
    assert _base_name("org/model") == "org-model"


def test_one_job_that_cannot_run_does_not_hold_up_others(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose folder is damaged fails, one with code waits, and one that could not be started is tried again."""
    starts, start = list[str](), runner._start

    def flaky(folder: Path, verb: str, memory: int) -> Any:
        starts.append(f"{folder.name} {verb}")
        if len(starts) == 1:
            raise OSError("no process")
        return start(folder, verb, memory)

    monkeypatch.setattr(runner, "_start", flaky)
    backend, deployment = open_server(tmp_path / "state")
    code = {"type": "python", "source": "def grade(sample, item): return 1.0"}
    common: Any = {"model": "base", "source": str(llama), "training_file": "file-0", "seed": 1, "request": "r"}
    damaged = Job(id="ftjob-a", method="supervised", status="queued", **common)
    waiting = Job(id="ftjob-b", method="reinforcement", status="queued", grader=code, **common)
    for job in (damaged, waiting):
        backend.tables.add(job)
    done = wait(backend, submit(backend, llama, tmp_path, epochs=1), "succeeded", "failed")
    assert done.status == "succeeded", done.error
    assert starts == ["ftjob-1 start", "ftjob-1 start"], "one process, which was tried twice"
    assert wait(backend, damaged.id, "failed").error
    assert wait(backend, waiting.id, "queued").owner is None
    backend.close()
    deployment.close()


def test_two_servers_share_a_folder(llama: Path, tmp_path: Path) -> None:
    """A job is trained once, by one of them, its model served by both, and withdrawn by both."""
    (one, first), (other, second) = (open_server(tmp_path / "state") for _ in range(2))
    job_id = submit(one, llama, tmp_path, epochs=1)
    job = wait(other, job_id, "succeeded", "failed")
    assert job.status == "succeeded", job.error
    events, _ = one.tables.page(JobEvent, limit=1000, after=None, job_id=job_id)
    assert [event.message for event in events].count("Fine-tuning job started") == 1
    name = job.fine_tuned_model
    assert name is not None
    await_that(lambda: {*first.names} == {*second.names} and name in first.names)
    assert one.jobs.forget(name)
    await_that(lambda: name not in second.names)
    for backend, deployment in ((one, first), (other, second)):
        backend.close()
        deployment.close()


def await_that(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about")
