"""Every error bottega raises on purpose.

    BottegaError            exit code 1
    ├── RecipeError         2   the recipe cannot be read or contradicts itself
    ├── DataError           2   a data file or a row in it
    ├── ModelError          2   a base model, tokenizer or adapter
    ├── RunError            2   a run folder: in use, locked, changed since it was started
    ├── CheckpointError     2   a checkpoint cannot be written, or none can be read
    ├── DiskError           2   any other file that cannot be read or written
    ├── Overloaded          1   a served model has too many requests to take another
    ├── OutOfMemory         1   the step did not fit in memory
    └── Diverged            1   a loss or gradient is NaN or infinite

A message says what is wrong, where, and how to fix it. Errors are caught only by the command line, the server and the
job runner.
"""

from __future__ import annotations

import errno
from typing import Any

# No space, quota exceeded, file size limit exceeded.
DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Phrases in the messages of libraries that were refused memory: their errors have no common type.
OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
    "out of memory",
    "alloc_failed",
)

# Limit on the characters of each part of a message, which may quote a file or recipe of any length.
MAX_PART_LENGTH = 1000


class BottegaError(Exception):
    """An error with what is wrong, where (`tickets.jsonl line 812, field output`), and how to fix it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = _shorten(what) or "", _shorten(where), _shorten(fix)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is unpickled with its arguments by position.
        return _unpickle, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        return f"{message}\n  → {self.fix}" if self.fix else message


def _unpickle(kind: type[BottegaError], arguments: tuple[Any, ...], values: dict[str, Any]) -> BottegaError:
    error = kind.__new__(kind, *arguments)
    vars(error).update(values)
    return error


class RecipeError(BottegaError):
    exit_code = 2


class DataError(BottegaError):
    exit_code = 2


class ModelError(BottegaError):
    exit_code = 2


class RunError(BottegaError):
    exit_code = 2


class CheckpointError(BottegaError):
    exit_code = 2


class DiskError(BottegaError):
    exit_code = 2


class Overloaded(BottegaError):
    """Too many requests wait; `seconds`: when to ask again."""

    def __init__(self, what: str, *, where: str, seconds: float) -> None:
        super().__init__(what, where=where, fix=f"try again in {max(seconds, 1):.0f} s")
        self.seconds = seconds


class OutOfMemory(BottegaError):
    pass


class Diverged(BottegaError):
    pass


class Unusable(Exception):
    """Raised for a valid record that makes no token row under the recipe's settings; `reason` is counted and shown.

    Not a BottegaError: a run goes on without the record.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _shorten(part: str | None) -> str | None:
    """The part with its middle cut out if it is too long: both ends help to recognize it."""
    if part is None or len(part) <= MAX_PART_LENGTH:
        return part
    return f"{part[: MAX_PART_LENGTH // 2]} … {part[-MAX_PART_LENGTH // 2 :]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, in Python, a library, or torch on a GPU."""
    # By name, because this module must not import torch.
    by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_type or any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY_PHRASES)


def is_disk_full(error: BaseException) -> bool:
    """Whether the error means that a disk, quota or file size limit was reached."""
    by_code = isinstance(error, OSError) and error.errno in DISK_FULL_CODES
    # Libraries written in Rust, such as safetensors, raise their own types with the code in the message.
    return by_code or any(f"os error {code}" in str(error) for code in DISK_FULL_CODES)


def disk_full_reason(error: BaseException) -> str:
    """Whether it was the disk or the size limit of a file, for a message."""
    size_limit = isinstance(error, OSError) and error.errno == errno.EFBIG
    return "the file size limit is reached (ulimit -f)" if size_limit else "the disk is full"


def from_system_error(error: Exception) -> BottegaError | None:
    """The error of the operating system as a BottegaError; None for a bug in the program, or a closed pipe."""
    # A closed pipe means that the reader has read enough (`bottega … | head`): no error.
    if isinstance(error, BrokenPipeError):
        return None
    if is_disk_full(error):
        fix = "free some space, or write to another disk"
        return DiskError(disk_full_reason(error), where=_file_name(error), fix=fix)
    if is_out_of_memory(error):
        fix = "close other programs, raise the limit (ulimit -v, or the container's), or use a smaller model"
        return OutOfMemory("the system is out of memory", fix=fix)
    if isinstance(error, OSError) and error.strerror:
        fix = "check that the folder exists and is writable"
        return DiskError(f"cannot be read or written: {error.strerror}", where=_file_name(error), fix=fix)
    return None


def _file_name(error: Exception) -> str | None:
    name = error.filename if isinstance(error, OSError) else None
    return None if name is None else str(name)
