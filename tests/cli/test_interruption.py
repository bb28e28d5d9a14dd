"""What is asked to stop stops at once, by one exit code, with a line that says how to go on, and loses nothing."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.cli.interruption import EXIT_CODE
from bottega.runs.atomic_files import checksum, commit_folder
from bottega.runs.store import history
from bottega.runs.summary import summary
from bottega.training import loop
from making import WORDS, write_jsonl

NEVER_DUE = 1000


@pytest.fixture
def document(llama: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe of ten updates of several micro-batches each."""
    draw = random.Random(0)
    rows = [
        {"prompt": f"the {draw.choice(WORDS)} dog", "completion": " " + " ".join(draw.choices(WORDS, k=5))}
        for _ in range(40)
    ]
    return {
        "model": {"base": str(llama), "dtype": "float32"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.25},
        "objective": {"kind": "sft"},
        "optim": {"steps": 10, "examples": 4, "tokens": 30, "lr": 1e-2},
        "evaluate": {"every": 3},
        "save": {"every": 4, "keep": 2},
    }


def sums(run: Path) -> dict[str, str]:
    """Checksums of all that a run leaves but its log."""
    files = [path for path in run.rglob("*") if path.suffix == ".safetensors" or path.name == "state.json"]
    return {str(path.relative_to(run)): checksum(path) for path in sorted(files)}


def after(polls: int) -> Callable[[], bool]:
    """Says to stop when asked for the so-manyth time."""
    count = itertools.count(1)
    return lambda: next(count) >= polls


WAYS = {
    "full": {},
    "lora that keeps the best": {"adapter": {"rank": 2}, "evaluate": {"every": 2, "stop_after": 9}},
    "nothing is saved": {"save": None, "evaluate": {"every": 5}},
    "dpo": {"objective": {"kind": "dpo"}, "adapter": {"rank": 2, "dropout": 0.1}},
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way in ("full", "dpo") else []) for way in WAYS]
)
def test_a_run_stopped_again_and_again_ends_as_one_that_was_not(way: str, document: dict, tmp_path: Path) -> None:
    if way == "dpo":
        rows = [{"prompt": f"{a} {b}", "chosen": f" {a}", "rejected": f" {b}"} for a, b in itertools.pairwise(WORDS)]
        document["data"]["train"] = str(write_jsonl(tmp_path / "pairs.jsonl", rows))
    recipe = bottega.Recipe.parse({**document, **WAYS[way]})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    list(bottega.train(recipe, whole))
    draw, stops = random.Random(way), 0
    events = list(bottega.train(recipe, cut, stop=after(14)))
    while events[-1].type != "finished":
        stops += 1
        events = list(bottega.resume(cut, stop=after(draw.randint(4, 30))))
    assert stops >= 2
    assert sums(cut) == sums(whole)
    told = [
        [(event["type"], event["step"], event["loss"]) for event in history(run) if event["type"] == kind]
        for run in (whole, cut)
        for kind in ("stepped", "validated")
    ]
    assert told[0] == told[2]
    assert [event for event in told[3] if event[1]] == [event for event in told[1] if event[1]]


def test_a_run_is_stopped_between_two_micro_batches(document: dict, tmp_path: Path) -> None:
    recipe = bottega.Recipe.parse({**document, "evaluate": {"every": NEVER_DUE}, "save": None})
    asked: list[int] = []
    steps = (event.step for event in bottega.train(recipe, tmp_path / "whole") if event.type == "stepped")
    assert list(steps) == list(range(1, 11))

    def stop() -> bool:
        asked.append(1)
        return False

    events = bottega.train(recipe, tmp_path / "run", stop=stop)
    between = []
    for event in events:
        if event.type == "stepped":
            between.append(len(asked))
            asked.clear()
    assert min(between[1:]) > 2, "an update asks more than once"


@pytest.mark.parametrize("polls", [1, 3])
def test_a_run_stopped_before_its_first_update_leaves_no_folder(polls: int, document: dict, tmp_path: Path) -> None:
    recipe = bottega.Recipe.parse(document)
    events = list(bottega.train(recipe, tmp_path / "runs" / "one", stop=after(polls)))
    assert "stepped" not in {event.type for event in events}
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_before_its_first_update_leaves_no_folder(
    document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document["data"]["validation"] = str(tmp_path / "nowhere.jsonl")
    with pytest.raises(bottega.BottegaError):
        list(bottega.train(bottega.Recipe.parse(document)))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "given").mkdir()
    with pytest.raises(bottega.BottegaError):
        list(bottega.train(bottega.Recipe.parse(document), tmp_path / "given"))
    assert list((tmp_path / "given").iterdir()) == []


def test_a_generator_that_is_closed_loses_nothing(document: dict, tmp_path: Path) -> None:
    for event in bottega.train(bottega.Recipe.parse(document), tmp_path / "run"):
        if event.step == 5:
            break
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"step-00000003", "step-00000004"}, "the best, and what was due"
    started = next(event for event in bottega.resume(tmp_path / "run") if event.type == "started")
    assert started.step == 4


@pytest.mark.parametrize("name", ["step-00000004", pytest.param("model", marks=pytest.mark.slow)])
def test_a_process_that_ends_while_it_writes_loses_nothing(
    name: str, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second Ctrl-C does in the middle of a checkpoint or the result: what is half written has another name."""

    def half(folder: Path, write: Callable[[Path], None]) -> None:
        def cut(partial: Path) -> None:
            write(partial)
            if folder.name == name:
                (partial / "model.safetensors").write_bytes(b"half")
                raise KeyboardInterrupt

        commit_folder(folder, cut)

    recipe = bottega.Recipe.parse({**document, "save": {"every": 4, "keep": 1}})
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    monkeypatch.setattr(loop, "commit_folder", half)
    with pytest.raises(KeyboardInterrupt):
        list(bottega.train(recipe, cut))
    assert [path.name for path in cut.rglob(".*.partial")] == [f".{name}.partial"]
    monkeypatch.undo()
    assert [event.type for event in bottega.resume(cut)][-1] == "finished"
    list(bottega.train(recipe, whole))
    assert sums(cut) == sums(whole)
    assert not list(cut.rglob("*.partial"))


def test_notes_stand_once(document: dict, tmp_path: Path) -> None:
    list(bottega.train(bottega.Recipe.parse(document), tmp_path / "run", stop=after(30)))
    assert any(event.type == "finished" for event in bottega.resume(tmp_path / "run"))
    notes = [event["message"] for event in history(tmp_path / "run") if event["type"] == "noted"]
    assert len(notes) == len(set(notes)) > 0


# Processes


def _heeded() -> None:
    """Let signals end this process, though a shell that started the tests in the background had them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Process:
    """A command as a process of its own, told to stop when something has happened."""

    def __init__(self, *arguments: str, cwd: Path, **how: Any) -> None:
        command = [sys.executable, "-m", "bottega", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        how = {"preexec_fn": _heeded, **how}
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


def test_a_run_that_trains_saves_and_says_how_to_go_on(document: dict, tmp_path: Path) -> None:
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


# Output that nobody takes


@pytest.mark.parametrize(
    "command", [["--help"], *(pytest.param(one, marks=pytest.mark.slow) for one in (["runs"], ["runs", "--json"]))]
)
def test_a_pipe_that_is_closed_and_a_full_disk_behind_the_output(command: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    closed = Process(*command, cwd=tmp_path, stdout=writing)
    os.close(writing)
    assert closed.when(lambda: True)[::2] == (0, "")
    with Path("/dev/full").open("w") as full:
        code, _, errors = Process(*command, cwd=tmp_path, stdout=full).when(lambda: True)
    assert (code, errors.splitlines()[0]) == (2, "error: standard output cannot be written: No space left on device")


def test_files_of_a_process_without_standard_files_are_its_own(tmp_path: Path) -> None:
    close = lambda: [os.close(number) for number in (0, 1, 2)] and None  # noqa: E731
    process = subprocess.Popen([sys.executable, "-m", "bottega", "runs"], cwd=tmp_path, preexec_fn=close)
    assert process.wait(60) == 0
