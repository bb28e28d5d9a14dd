"""Every error bottega raises on purpose.

    BottegaError            exit code 1
    ├── RecipeError         2   the recipe cannot be read or contradicts itself
    ├── DataError           2   a data file or a row in it
    ├── ModelError          2   a base model, tokenizer or adapter
    ├── RunError            2   a run folder: taken, locked, changed under a resume
    ├── CheckpointError     2   a checkpoint cannot be written or none can be read
    ├── DiskError           2   any other file that cannot be read or written
    ├── OutOfMemory         1   the step did not fit
    └── Diverged            1   a loss or gradient stopped being a number

A message says what is wrong, where, and what to do. Errors are raised where they are found and caught only by
the command line, the server and the job runner.
"""

from __future__ import annotations

import errno

DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
    "out of memory",
    "alloc_failed",
)
"""What libraries say when the system gives them no memory."""

MAX_PART_LENGTH = 1000
"""Most characters of a part of a message: what a file or a recipe holds may be of any length."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory, by Python, a library, or torch on a card."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(words in str(error).lower() for words in OUT_OF_MEMORY_PHRASES)


def _shorten(part: str | None) -> str | None:
    return (
        part
        if part is None or len(part) <= MAX_PART_LENGTH
        else f"{part[: MAX_PART_LENGTH // 2]} … {part[-MAX_PART_LENGTH // 2 :]}"
    )


class BottegaError(Exception):
    """What went wrong, where (`tickets.jsonl line 812, field output`), and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = _shorten(what) or "", _shorten(where), _shorten(fix)

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}\n  → {self.fix}" if self.fix else located


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


class OutOfMemory(BottegaError):
    pass


class Diverged(BottegaError):
    pass


def is_disk_full(error: BaseException) -> bool:
    """Whether it was the disk that was full; libraries written in Rust say so in words only."""
    found = isinstance(error, OSError) and error.errno in DISK_FULL_CODES
    return found or any(f"os error {code}" in str(error) for code in DISK_FULL_CODES)


def disk_full_reason(error: BaseException) -> str:
    """What there is no room for: on the disk, or in a file that may not grow."""
    grown = isinstance(error, OSError) and error.errno == errno.EFBIG
    return "a file may not grow so large here (ulimit -f)" if grown else "the disk is full"


def from_system_error(error: Exception) -> BottegaError | None:
    """What the system refused, as an error of ours; None for a fault of the program, or a closed pipe."""
    if isinstance(error, BrokenPipeError):
        return None
    if is_disk_full(error):
        fix = "free some space, or write to another disk"
        return DiskError(disk_full_reason(error), where=_file_name(error), fix=fix)
    if is_out_of_memory(error):
        fix = "end other programs, raise the limit (ulimit -v, the container's), or take a smaller model"
        return OutOfMemory("the system gives no more memory", fix=fix)
    if isinstance(error, OSError) and error.strerror:
        fix = "see that the folder is there, and may be written to"
        return DiskError(f"cannot be read or written: {error.strerror}", where=_file_name(error), fix=fix)
    return None


def _file_name(error: Exception) -> str | None:
    name = error.filename if isinstance(error, OSError) else None
    return None if name is None else str(name)
