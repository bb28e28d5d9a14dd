"""The process of a job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_rows import CHAT

import bottega
from bottega.server.jobs.worker import DONE, FAILED, FAILURE, GO, PREPARED, RUN, STOP, STOPPED, TRAINING, JobSpec
from making import write_jsonl


def make_job(folder: Path, base: Path, rows: int = 10, epochs: int = 2) -> Path:
    folder.mkdir()
    write_jsonl(folder / TRAINING, [CHAT] * rows)
    numbers = {"n_epochs": epochs, "batch_size": 1, "learning_rate_multiplier": "auto"}
    JobSpec("ftjob-1", "supervised", str(base), 1, "file-1", None, numbers, 10).write(folder)
    return folder


@contextmanager
def process(verb: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """(a process of a job, the end of the pipe that its server holds)."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "bottega.server.jobs.worker", verb, str(folder), str(reading)]
    with subprocess.Popen(command, pass_fds=(reading,)) as started:
        os.close(reading)
        yield started, writing
        started.kill()


def run(verb: str, folder: Path) -> int:
    with process(verb, folder) as (started, writing):
        code = started.wait(60)
        os.close(writing)
    return code


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"there is no {path.name}")


def wait_for_updates(folder: Path) -> None:
    for _ in range(600):
        if (folder / RUN / "events.jsonl").exists() and "stepped" in (folder / RUN / "events.jsonl").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("no update was made")


def test_a_job_is_prepared_and_trained(llama: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", llama)
    with process("start", folder) as (started, writing):
        wait_for(folder / PREPARED)
        time.sleep(0.5)
        assert started.poll() is None, "it waits"
        assert not (folder / RUN).exists()
        os.write(writing, GO)
        assert started.wait(60) == DONE
        os.close(writing)
    assert bottega.read_json(folder / PREPARED)["hyperparameters"]["learning_rate_multiplier"] == 1.0
    result = bottega.resolve(folder / RUN).result
    assert result is not None
    before = (result / "manifest.json").read_bytes()
    assert run("train", folder) == DONE  # once more, after a server was killed before it heard of the end
    assert (result / "manifest.json").read_bytes() == before


def test_what_is_wrong_is_written_down(llama: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "few", llama, rows=3)
    assert run("prepare", folder) == FAILED
    assert bottega.read_json(folder / FAILURE)["code"] == "invalid_n_examples"
    lost = make_job(tmp_path / "lost", tmp_path / "nowhere")
    assert run("prepare", lost) == FAILED
    assert str(tmp_path / "lost") not in bottega.read_json(lost / FAILURE)["message"]


@pytest.mark.slow
@pytest.mark.parametrize("told", [STOP, b""])
def test_a_job_that_is_prepared_ends_when_it_is_told(told: bytes, llama: Path, tmp_path: Path) -> None:
    """And what it has prepared is trained by another process."""
    folder = make_job(tmp_path / "job", llama)
    with process("start", folder) as (started, writing):
        wait_for(folder / PREPARED)
        os.write(writing, told)
        if not told:
            os.close(writing)
        assert started.wait(10) == STOPPED
        if told:
            os.close(writing)
    assert not (folder / RUN).exists()
    assert run("train", folder) == DONE


@pytest.mark.slow
def test_a_job_stops_when_asked_and_ends_with_its_server(llama: Path, tmp_path: Path) -> None:
    """And goes on to the bytes that it would have had."""
    folder, whole = make_job(tmp_path / "job", llama, epochs=30), make_job(tmp_path / "whole", llama, epochs=30)
    assert run("prepare", folder) == run("prepare", whole) == DONE
    with process("train", folder) as (started, writing):
        wait_for_updates(folder)
        os.write(writing, STOP)
        assert started.wait(30) == STOPPED
        os.close(writing)
    assert list((folder / RUN / "checkpoints").iterdir())
    with process("train", folder) as (started, writing):
        time.sleep(3)
        os.close(writing)  # the server is gone
        assert started.wait(30) in (STOPPED, DONE)
    assert run("train", folder) == run("train", whole) == DONE
    weights = [(one / RUN / "adapter" / "adapter_model.safetensors").read_bytes() for one in (folder, whole)]
    assert weights[0] == weights[1]
