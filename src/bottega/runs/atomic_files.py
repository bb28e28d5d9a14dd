"""Files and folders that appear on disk complete or not at all, with checksums, and errors that name what failed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bottega.errors import CheckpointError, RunError, disk_full_reason, is_disk_full

# In every committed folder: file → SHA-256.
MANIFEST = "manifest.json"
# The folder of a run that its checkpoints are in.
CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` at the end of the block; after an error `path` is as before."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        # The contents must be on disk before the name is: after a power cut the file would otherwise be empty.
        _sync(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with open_atomic(path) as file:
        file.write(json.dumps(document).encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that was written whole."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with open_atomic(path) as file:
        file.write(text.encode())


def commit_folder(folder: Path, write: Callable[[Path], None], *, again: str = "") -> None:
    """Create or replace `folder` atomically: `write` fills an empty folder, which gets a manifest, then the name.

    again  the command to repeat once there is space on the disk; default: the one that continues the run of the folder

    Raises CheckpointError on a full disk, RunError for other errors of the file system; nothing partial is left.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        checksums = {path.relative_to(partial).as_posix(): checksum(path) for path in files}
        write_text_atomic(partial / MANIFEST, json.dumps(checksums, indent=1))
        for path in (*partial.rglob("*"), partial):
            _sync(path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # `write` may be a Rust library (safetensors), whose full disk is no OSError: check that first.
        if is_disk_full(error):
            raise _disk_full_error(error, folder, again or _resume_command(_run_of(folder))) from error
        if isinstance(error, OSError):
            with disk_errors(_run_of(folder)):
                raise
        raise
    if folder.exists():
        # A damaged folder of the same name, skipped by a resume. `rename` needs an empty target.
        shutil.rmtree(folder)
    partial.rename(folder)
    # A rename is durable only once the parent folder is synced.
    _sync(folder.parent)


def verify_folder(folder: Path) -> str:
    """Check a committed folder against its manifest; the problem in a few words, or an empty string."""
    try:
        checksums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or damaged"
    for name, expected in checksums.items():
        if not (folder / name).exists():
            return f"{name} is missing"
        if checksum(folder / name) != expected:
            return f"{name} is damaged"
    return ""


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def disk_errors(run: Path) -> Iterator[None]:
    """Turn OSError and ValueError (of a closed or invalid file) inside the block into errors that name the run."""
    try:
        yield
    except (OSError, ValueError) as error:
        if is_disk_full(error):
            raise _disk_full_error(error, run, _resume_command(run)) from None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        fix = "choose another --out; to continue a run, copy its folder to a writable place"
        raise RunError(f"cannot be written: {reason}", where=str(run), fix=fix) from None


def _resume_command(run: Path) -> str:
    return f"bottega train --resume {run}"


def _disk_full_error(error: BaseException, where: Path, again: str) -> CheckpointError:
    return CheckpointError(
        f"{disk_full_reason(error)}; what was saved before is intact",
        where=str(where),
        fix=f"free some space, then: {again}",
    )


def _run_of(folder: Path) -> Path:
    """The run folder that a checkpoint or a result belongs to."""
    return folder.parent.parent if folder.parent.name == CHECKPOINTS else folder.parent


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
