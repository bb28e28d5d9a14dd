"""Disks that are full or may not be written to: an error in a line, nothing lost, and on it goes once there is room."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import bottega
from bottega.cli.commands import app
from bottega.errors import BottegaError, CheckpointError, DiskError, OutOfMemory, from_system_error
from bottega.runs.atomic_files import checksum, verify_folder
from bottega.runs.summary import summary
from making import WORDS, write_jsonl


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of four megabytes that can be filled, and closed for writing."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Disk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
            file.truncate(max(0, file.tell() - left))

    def empty(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)

    def open(self) -> None:
        subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True)


@pytest.fixture
def document(llama: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe of six updates that saves at every second."""
    rows = [{"prompt": f"the {a}", "completion": f" {b} sat"} for a, b in itertools.pairwise(WORDS)]
    return {
        "model": {"base": str(llama), "dtype": "float32"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.3},
        "objective": {"kind": "sft"},
        "optim": {"steps": 6, "examples": 4, "lr": 1e-2},
        "save": {"every": 2, "keep": 1},
    }


def run_until(events: Iterator[Any], step: int, then: Callable[[], None]) -> None:
    """Go on with a run, and do something when a step was made."""
    for event in events:
        if event.type in ("stepped", "saved") and event.step == step:
            then()


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(done: Result, *words: str) -> None:
    """It ended as the user's disk, in a few words."""
    assert done.exit_code == 2, (done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    for word in words:
        assert word in done.stderr.replace("\n", " ")


def finished(run: Path) -> bool:
    return [event.type for event in bottega.resume(run)][-1] == "finished" and not verify_folder(run / "model")


@pytest.mark.parametrize("left", [0, 4096, 8192])
def test_a_disk_that_is_full_at_the_start(left: int, disk: Disk, document: dict, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(document))
    disk.fill(left)
    told(call("train", recipe, "--out", disk.folder / "run"), "disk", str(disk.folder / "run"))
    gc.collect()  # where what is freed complains
    assert [path.name for path in disk.folder.iterdir()] == ["ballast"]


def test_a_disk_that_fills_up_on_the_way(disk: Disk, document: dict, tmp_path: Path) -> None:
    recipe, run = bottega.Recipe.parse(document), disk.folder / "run"
    with pytest.raises(CheckpointError, match="disk is full"):
        run_until(bottega.train(recipe, run), 3, lambda: disk.fill(60_000))
    saved = [path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith(".")]
    assert saved == ["step-00000002"]
    assert not verify_folder(run / "checkpoints" / saved[0])
    told(call("train", "--resume", run), "the disk is full", f"--resume {run}")
    disk.empty()
    assert finished(run)
    list(bottega.train(recipe, tmp_path / "whole"))
    name = "model/model.safetensors"
    assert checksum(run / name) == checksum(tmp_path / "whole" / name)


def test_a_disk_without_room_for_a_line(disk: Disk, document: dict) -> None:
    run = disk.folder / "run"
    document["optim"]["steps"], document["save"] = 40, None
    with pytest.raises(BottegaError, match="disk is full"):
        run_until(bottega.train(bottega.Recipe.parse(document), run), 3, disk.fill)
    gc.collect()
    disk.empty()
    assert finished(run)


def test_a_run_that_may_not_be_written_to(disk: Disk, document: dict, tmp_path: Path) -> None:
    run = disk.folder / "run"
    for event in bottega.train(bottega.Recipe.parse(document), run):
        if event.step == 3:
            break
    disk.close()
    told(call("train", "--resume", run), "cannot be written: Read-only file system", str(run))
    shown = call("show", run)
    assert (shown.exit_code, summary(run)["status"]) == (0, "stopped")
    told(call("train", run / "recipe.yaml", "--out", disk.folder / "other"), "Read-only file system")
    disk.open()
    assert finished(run)


def test_what_was_measured_is_shown_though_no_report_can_be_written(disk: Disk, document: dict) -> None:
    run = disk.folder / "run"
    document["save"] = None
    list(bottega.train(bottega.Recipe.parse(document), run))
    disk.close()
    done = call("evaluate", run, "--against", "none", "--answers", "0", "--json")
    told(done, "the evaluation continues", "the report cannot be written: Read-only file system", "--report DIR")
    assert json.loads(done.stdout)["verdict"]["sentence"]
    disk.open()
    disk.fill()
    done = call("evaluate", run, "--against", "none", "--answers", "0")
    told(done, "the report cannot be written: No space left on device")
    assert "loss" in done.stdout
    assert not list(run.glob("*report*"))
    disk.empty()
    assert call("evaluate", run, "--against", "none", "--answers", "0").exit_code == 0
    shown = call("show", run).stdout
    assert json.loads((run / "report.json").read_text())["verdict"]["sentence"] in " ".join(shown.split())
    assert "bottega evaluate" not in shown
    assert f"{run}/report.html" in shown.replace("\n", "")


def test_a_cleaned_copy_for_which_there_is_no_room(disk: Disk, tmp_path: Path) -> None:
    rows = [{"prompt": f"{word} {number}", "completion": f"{word} sat " * 9} for number in range(60) for word in WORDS]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    disk.fill(50_000)
    out = disk.folder / "clean.jsonl"
    told(call("audit", data, "--only", "duplicates", "--fix", out), "cannot be written: No space left", str(out))
    assert [path.name for path in disk.folder.iterdir()] == ["ballast"]
    disk.empty()
    assert call("audit", data, "--only", "duplicates", "--fix", out).exit_code == 0
    assert len(out.read_text().splitlines()) == len(rows)


def test_other_results_for_which_there_is_no_room(disk: Disk, llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and then the dog ran. " * 60)
    disk.fill(4096)
    told(call("tokenizer", "train", text, "--vocab", "300", "--out", disk.folder / "tokenizer"), "the disk is full")
    told(call("init", "sft", "--out", disk.folder / "recipe.yaml"), "No space left on device")
    (disk.folder / "recipe.yaml").unlink(missing_ok=True)
    told(call("embed", llama, "one", "two", "--out", disk.folder / "none" / "v.npy"), "No such file or directory")
    assert [path.name for path in disk.folder.iterdir()] == ["ballast"]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(28, "No space left on device", "/some/file"), DiskError, "/some/file: the disk is full"),
        (
            OSError(27, "File too large", "/some/file"),
            DiskError,
            "/some/file: the file size limit is reached (ulimit -f)",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), DiskError, "the disk is full"),
        (PermissionError(13, "Permission denied", "/some/file"), DiskError, "/some/file: cannot be read or written"),
        (MemoryError(), OutOfMemory, "the system is out of memory"),
        (
            ImportError("libtorch_python.so: failed to map segment from shared object"),
            OutOfMemory,
            "the system is out of memory",
        ),
        (RuntimeError("can't start new thread"), OutOfMemory, "the system is out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            OutOfMemory,
            "the system is out of memory",
        ),
    ],
)
def test_what_the_system_refuses(error: Exception, kind: type, words: str) -> None:
    found = from_system_error(error)
    assert isinstance(found, kind)
    assert words in str(found)
    assert "→" in str(found)


def test_a_fault_of_the_program_is_not_hidden() -> None:
    assert from_system_error(ValueError("x")) is None
    assert from_system_error(BrokenPipeError(32, "Broken pipe")) is None


def limited(limit: str, command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command under a limit of the shell's."""
    shell = ["bash", "-c", f"{limit}; exec {sys.executable} -m bottega {command}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(shell, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize(
    ("limit", "command", "said"),
    [
        ("-Sv 1000000", "train recipe.yaml --out run", "ulimit -v: torch needs 1.40 GB of memory"),
        (
            "-d 300000",
            "preview recipe.yaml",
            "ulimit -d: torch needs 0.50 GB of memory, and this process may use 0.31 GB",
        ),
    ],
)
def test_a_limit_below_what_the_libraries_take(limit: str, command: str, said: str, tmp_path: Path) -> None:
    """Told before they are imported: OpenBLAS would ask for ever, holding Python's lock, so that no signal is heard."""
    document = {"model": {"base": "m"}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    done = limited(f"ulimit {limit}", command, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert ("raise it: ulimit -v unlimited" if "-S" in limit else "have an administrator raise it") in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [1_500_000, 1_700_000])
def test_a_limit_of_memory(kilobytes: int, document: dict, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    done = limited(f"ulimit -v {kilobytes}", "train recipe.yaml --out run", tmp_path)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "→" in done.stderr
        assert not (tmp_path / "run").exists()
