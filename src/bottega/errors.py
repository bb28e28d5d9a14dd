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

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
    "out of memory",
    "alloc_failed",
)
"""What libraries say when the system gives them no memory."""

LONGEST = 1000
"""Most characters of a part of a message: what a file or a recipe holds may be of any length."""


def of_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory, by Python, a library, or torch on a card."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(words in str(error).lower() for words in NO_MEMORY)


def _cut(part: str | None) -> str | None:
    return part if part is None or len(part) <= LONGEST else f"{part[: LONGEST // 2]} … {part[-LONGEST // 2 :]}"


class BottegaError(Exception):
    """What went wrong, where (`tickets.jsonl line 812, field output`), and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = _cut(what) or "", _cut(where), _cut(fix)

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


def disk_full(error: BaseException) -> bool:
    """Whether it was the disk that was full; libraries written in Rust say so in words only."""
    found = isinstance(error, OSError) and error.errno in FULL
    return found or any(f"os error {code}" in str(error) for code in FULL)


def full(error: BaseException) -> str:
    """What there is no room for: on the disk, or in a file that may not grow."""
    grown = isinstance(error, OSError) and error.errno == errno.EFBIG
    return "a file may not grow so large here (ulimit -f)" if grown else "the disk is full"


def from_outside(error: Exception) -> BottegaError | None:
    """What the system refused, as an error of ours; None for a fault of the program, or a closed pipe."""
    if isinstance(error, BrokenPipeError):
        return None
    if disk_full(error):
        fix = "free some space, or write to another disk"
        return DiskError(full(error), where=_file(error), fix=fix)
    if of_memory(error):
        fix = "end other programs, raise the limit (ulimit -v, the container's), or take a smaller model"
        return OutOfMemory("the system gives no more memory", fix=fix)
    if isinstance(error, OSError) and error.strerror:
        fix = "see that the folder is there, and may be written to"
        return DiskError(f"cannot be read or written: {error.strerror}", where=_file(error), fix=fix)
    return None


def _file(error: Exception) -> str | None:
    name = error.filename if isinstance(error, OSError) else None
    return None if name is None else str(name)
