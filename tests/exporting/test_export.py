"""Exports are proved before they get their name; a new format is one file."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

import bottega
from bottega import exporting
from bottega.errors import CheckpointError, ModelError, RecipeError, RunError
from bottega.exporting.merged import Merged
from bottega.inference import runtimes
from bottega.inference.runtimes.transformers import TransformersRuntime
from bottega.runs.atomic_files import verify_folder
from bottega.runs.export_info import EXPORT_FILE
from making import make_model, page_file

EXAMPLE = page_file("src/bottega/exporting/sharded.py")

NO_ENGINE = '''
from typing import ClassVar

from bottega.exporting.merged import Merged as Written
from bottega.exporting import ExportFormat


class Lost(ExportFormat):
    """A folder for a program that nobody has."""

    title: ClassVar[str] = "folder for nobody"
    runtime: ClassVar[str] = "nobody"

    def write(self, model, folder, precision):
        Written().write(model, folder, precision)
'''

NOBODY = """
from typing import ClassVar

from bottega.inference.runtimes import Runtime


class Nobody(Runtime):
    title: ClassVar[str] = "Nobody"
    package: ClassVar[str] = "nobody_has_this"
    extra: ClassVar[str] = "nobody"

    def begin(self, source=None):
        self.tokens = []

    def append(self, tokens):
        return self.tokens
"""


def test_wrong_arguments(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown export format 'mergd'(?s:.*)merged"):
        bottega.export(llama, tmp_path / "out", format="mergd")
    with pytest.raises(RecipeError, match="merged has no precision 'int4'"):
        bottega.export(llama, tmp_path / "out", precision="int4")
    with pytest.raises(RunError, match="already exists"):
        bottega.export(llama, llama)


def test_a_format_that_cannot_hold_the_model_names_those_that_can(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    mamba = make_model(tmp_path / "mamba", "mamba")
    with pytest.raises(ModelError, match="ONNX cannot hold this model: it keeps a state of another kind") as caught:
        bottega.export(mamba, tmp_path / "out", format="onnx")
    assert caught.value.fix == "formats that can hold it: merged"


def test_an_export_is_opened_with_its_own_head(llama: Path, tmp_path: Path) -> None:
    bottega.export(llama, tmp_path / "out")
    with pytest.raises(ModelError, match="exported with another head"):
        bottega.load_embedder(tmp_path / "out")


KILLED = """
import sys, time
import bottega
from bottega.exporting.merged import Merged

write = Merged.write

def wait(*arguments):
    write(*arguments)
    print("written", flush=True)
    time.sleep(60)

Merged.write = wait
bottega.export(sys.argv[1], sys.argv[2])
"""


def test_a_killed_export_leaves_no_export(llama: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, llama, tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.kill()
    assert not (tmp_path / "out").exists()
    # What it had written is gone with the next attempt.
    bottega.export(llama, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_export_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Merged, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bottega.export(llama, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_what_brings_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bottega.exporting.onnx import Onnx

    monkeypatch.setattr(Onnx, "packages", ("onnxruntime_of_tomorrow",))
    with pytest.raises(ModelError, match="writing ONNX needs onnxruntime_of_tomorrow") as caught:
        bottega.export(llama, tmp_path / "out", format="onnx")
    assert caught.value.fix == "pip install 'bottega[onnx]'"


def test_without_its_program_an_export_is_marked_as_unproved(
    llama: Path, tmp_path: Path, plug_in: Callable[..., None]
) -> None:
    plug_in(exporting, "lost", NO_ENGINE)
    plug_in(runtimes, "nobody", NOBODY)
    result = bottega.export(llama, tmp_path / "out", format="lost")
    assert result.proof is None
    assert result.unproved == "Nobody is not installed here: pip install 'bottega[nobody]'"
    assert json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["comparison"]["proof"] is None
    assert "**Unproved.** Nobody is not installed here" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ModelError, match="Nobody is not installed"):
        bottega.load(tmp_path / "out")


def test_a_full_disk_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Merged, "write", full)
    with pytest.raises(CheckpointError) as caught:
        bottega.export(llama, tmp_path / "out")
    assert caught.value.fix == f"free some space, then: bottega export {llama} --to merged --out {tmp_path / 'out'}"
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_fails_is_reported_and_nothing_is_left(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this node is not supported\nmore of that")

    monkeypatch.setattr(TransformersRuntime, "append", fail)
    with pytest.raises(ModelError, match="the program that runs the export fails: this node is not supported"):
        bottega.export(llama, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_new_format_is_one_file(llama: Path, tmp_path: Path, plug_in: Callable[..., None]) -> None:
    plug_in(exporting, "sharded", EXAMPLE)
    result = bottega.export(llama, tmp_path / "out", format="sharded")
    assert result.format == "sharded"
    assert result.proof is not None
    assert result.proof.difference < 1e-4
    answers = [bottega.load(name).generate(["the cat"])[0][0].text for name in (llama, tmp_path / "out")]
    assert answers[0] == answers[1]


def test_a_model_without_a_run_is_exported_with_its_proof(llama: Path, tmp_path: Path) -> None:
    result = bottega.export(llama, tmp_path / "out")
    assert result.proof is not None
    assert (result.folder, result.format, result.precision, result.proof.rows) == (
        tmp_path / "out",
        "merged",
        "fp32",
        1,
    )
    assert result.bytes == sum(path.stat().st_size for path in result.folder.rglob("*") if path.is_file())
    document = json.loads((result.folder / EXPORT_FILE).read_text())
    assert document == {
        "format": "merged",
        "precision": "fp32",
        "runtime": "transformers",
        "head": "language",
        "origin": llama.name,
        "objective": None,
        "choices": {},
        "base": "",
        "comparison": asdict(result.comparison) | {"quality": []},
    }
    assert verify_folder(result.folder) == ""
