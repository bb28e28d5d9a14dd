"""Signals stop a command at once, with one exit code and a line that says how to continue; nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bottega.cli import interruption
from bottega.cli.interruption import EXIT_CODE, SAME_SIGNAL_SECONDS, Interrupted, _State
from bottega.runs.summary import summary
from making import make_document


@pytest.fixture
def document(llama: Path, tmp_path: Path) -> dict[str, Any]:
    return make_document(llama, tmp_path)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> type[_State]:
    """The state of a process that received no signal yet."""
    for name, value in (("first", None), ("raised", False), ("deferred", False)):
        monkeypatch.setattr(_State, name, value)
    return _State


def test_a_signal_raises_once(state: type[_State]) -> None:
    assert not interruption.stop_requested()
    interruption.check()
    with pytest.raises(Interrupted):
        interruption._handle(signal.SIGINT, None)
    assert interruption.stop_requested()
    interruption._handle(signal.SIGTERM, None)  # within a moment: the same one
    with pytest.raises(Interrupted):
        interruption.check()


def test_a_deferred_signal_raises_nothing_until_it_is_checked(state: type[_State]) -> None:
    with interruption.deferred():
        interruption._handle(signal.SIGINT, None)
        interruption.check()
        assert interruption.stop_requested()
    with pytest.raises(Interrupted):
        interruption.check()


def test_signals_of_a_process_that_is_ending_raise_nothing(state: type[_State]) -> None:
    interruption.ignore_signals()
    interruption._handle(signal.SIGINT, None)
    interruption.check()


def test_a_later_signal_ends_the_process(state: type[_State], monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(interruption.os, "_exit", ended.append)
    with pytest.raises(Interrupted):
        interruption._handle(signal.SIGINT, None)
    assert state.first is not None
    state.first -= 2 * SAME_SIGNAL_SECONDS
    interruption._handle(signal.SIGINT, None)
    assert ended == [EXIT_CODE]


def test_an_interruption_is_no_exception_that_a_library_would_catch() -> None:
    assert not issubclass(Interrupted, Exception)


def _restore_signals() -> None:
    """Let signals end this process: a shell that starts the tests in the background has them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Process:
    """A command as a process of its own, which receives signals once something has happened."""

    def __init__(self, *arguments: str, cwd: Path, **how: Any) -> None:
        command = [sys.executable, "-m", "bottega", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        how = {"preexec_fn": _restore_signals, **how}
        self.popen = subprocess.Popen(command, cwd=cwd, text=True, **{**pipes, **how})

    def when(self, happened: Callable[[], bool], *signals: int, apart: float = 0.0) -> tuple[int, str, str]:
        """(exit code, output, errors) after the signals were sent."""
        end = time.monotonic() + 120
        while not happened() and self.popen.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        for number in signals:
            self.popen.send_signal(number)
            time.sleep(apart)
        output, errors = self.popen.communicate(timeout=120)
        assert "Traceback" not in errors, errors
        assert "ignored" not in errors, errors
        return self.popen.returncode, output, errors


def listening(process: Process) -> bool:
    """Whether signals are handled: what the kernel says of SIGTERM."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def reached(run: Path, step: int) -> bool:
    path = run / "events.jsonl"
    return path.exists() and f'"stepped", "step": {step},' in path.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_is_stopped_while_it_is_imported(number: int, tmp_path: Path) -> None:
    process = Process("generate", "some/model", "once", cwd=tmp_path)
    assert process.when(lambda: listening(process), number) == (EXIT_CODE, "", "stopped\n")


def test_a_signalled_run_saves_a_checkpoint_and_says_how_to_continue(document: dict, tmp_path: Path) -> None:
    document["optim"]["steps"] = 4000
    (tmp_path / "recipe.yaml").write_text(json.dumps({**document, "save": None}))
    run = tmp_path / "runs" / "run-1"
    process = Process("train", "recipe.yaml", "--json", cwd=tmp_path)
    code, output, errors = process.when(lambda: reached(run, 5), signal.SIGTERM)
    done = summary(run)["step"]
    assert code == EXIT_CODE
    last = errors.splitlines()[-1]
    assert last == f"stopped after update {done} of 4000; continue with: bottega train --resume runs/run-1"
    assert json.loads(output)["status"] == "stopped"
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{done:08d}"]


@pytest.mark.slow
def test_two_signals_within_a_moment_count_once(document: dict, tmp_path: Path) -> None:
    """`timeout` signals a process and its group."""
    document["optim"]["steps"] = 4000
    (tmp_path / "recipe.yaml").write_text(json.dumps({**document, "save": None}))
    run, done = tmp_path / "run", 0
    for arguments in (("recipe.yaml", "--out", "run"), ("--resume", "run")):
        process, least = Process("train", *arguments, cwd=tmp_path), done + 2
        code, _, errors = process.when(partial(reached, run, least), signal.SIGINT, signal.SIGINT)
        assert (code, summary(run)["step"] >= least) == (EXIT_CODE, True)
        assert errors.splitlines()[-1].endswith("--resume run")
        done = summary(run)["step"]


@pytest.mark.slow
def test_a_second_signal_ends_at_once(document: dict, tmp_path: Path) -> None:
    document["optim"] |= {"steps": 4000, "examples": 12_000, "tokens": 1_000_000}  # one micro-batch of many seconds
    (tmp_path / "recipe.yaml").write_text(json.dumps({**document, "evaluate": None, "save": None}))
    process = Process("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
    started = tmp_path / "run" / "events.jsonl"
    begun: list[float] = []

    def computing() -> bool:
        if started.exists() and '"started"' in started.read_text():
            begun.append(time.monotonic())
        return bool(begun) and begun[-1] - begun[0] > 3

    code, _, errors = process.when(computing, signal.SIGINT, signal.SIGINT, apart=0.5)
    assert (code, errors.splitlines()[-1]) == (EXIT_CODE, "stopped at once")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_is_stopped_at_any_moment(number: int, document: dict, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    for moment in (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0):
        process = Process("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
        while not listening(process):
            time.sleep(0.01)
        time.sleep(moment)
        code, _, errors = process.when(lambda: True, number)
        assert code in (EXIT_CODE, 0)
        assert code == 0 or errors.splitlines()[-1].startswith("stopped")
        if (tmp_path / "run").exists():
            break


@pytest.mark.slow
def test_a_run_that_ignores_the_closing_of_its_terminal_goes_on(document: dict, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None  # noqa: E731, as nohup does
    process = Process("train", "recipe.yaml", "--out", "run", cwd=tmp_path, preexec_fn=ignore)
    code, _, _ = process.when(lambda: reached(tmp_path / "run", 1), signal.SIGHUP)
    assert (code, summary(tmp_path / "run")["status"]) == (0, "finished")
