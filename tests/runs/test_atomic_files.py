"""Files and folders that appear whole or not at all, and errors that name the run."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from bottega.errors import CheckpointError, RunError
from bottega.runs.atomic_files import (
    CHECKPOINTS,
    MANIFEST,
    checksum,
    commit_folder,
    disk_errors,
    open_atomic,
    read_json,
    verify_folder,
    write_json,
    write_text_atomic,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "place.json"
    write_text_atomic(path, "città")
    with open_atomic(path) as file:
        file.write(b"new")
        assert path.read_text(encoding="utf-8") == "città"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def break_off(path: Path) -> None:
    with open_atomic(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_after_an_error_a_file_is_as_before(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "kept", "old")
    for name in ("kept", "new"):
        with pytest.raises(KeyboardInterrupt):
            break_off(tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "old"}


def write_two(folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")
    (folder / "more").mkdir()


def test_a_folder_gets_a_manifest_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    commit_folder(folder, write_two)
    sums = json.loads((folder / MANIFEST).read_text())
    assert sums == {"a.txt": hashlib.sha256(b"one").hexdigest(), "b.txt": checksum(folder / "b.txt")}
    assert verify_folder(folder) == ""
    commit_folder(folder, lambda partial: (partial / "c.txt").touch())
    assert {path.name for path in folder.iterdir()} == {"c.txt", MANIFEST}, "a damaged one is replaced as a whole"


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    commit_folder(folder, write_two)
    (folder / "a.txt").write_text("other")
    assert verify_folder(folder) == "a.txt is damaged"
    (folder / "a.txt").unlink()
    assert verify_folder(folder) == "a.txt is missing"
    for text in ("{", ""):
        (folder / MANIFEST).write_text(text)
        assert verify_folder(folder) == "its manifest is missing or damaged"
    assert verify_folder(tmp_path / "none") == "its manifest is missing or damaged"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FULL, CheckpointError, "the disk is full; what was saved before is intact"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), CheckpointError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), RunError, "cannot be written: Permission denied"),
        (KeyError("a fault"), KeyError, "a fault"),
    ],
)
def test_a_folder_that_cannot_be_written_leaves_nothing(
    error: Exception, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    def write(folder: Path) -> None:
        write_two(folder)
        raise error

    folder = tmp_path / CHECKPOINTS / "step-00000001"
    with pytest.raises(kind, match=words) as caught:
        commit_folder(folder, write)
    assert list(folder.parent.iterdir()) == []
    if kind is CheckpointError:
        assert f"bottega train --resume {tmp_path}" in str(caught.value)


def fail(error: Exception, run: Path) -> None:
    with disk_errors(run):
        raise error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FULL, CheckpointError, "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), RunError, "cannot be written: Read-only file system"),
        (ValueError("I/O operation on closed file."), RunError, "cannot be written: I/O operation on closed file"),
    ],
)
def test_errors_of_the_file_system_name_the_run(
    error: Exception, kind: type[RunError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words) as caught:
        fail(error, tmp_path)
    assert caught.value.where == str(tmp_path)


def test_other_errors_are_not_the_disks(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail(KeyError("x"), tmp_path)


def test_an_object_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    write_json(path, {"a": [1, "è"]})
    assert read_json(path) == {"a": [1, "è"]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": [1, "è"]}
    assert [one.name for one in tmp_path.iterdir()] == ["task.json"]
