"""Every error bottega raises on purpose.

    BottegaError            exit code 1
    ├── RecipeError         2   the recipe cannot be read or contradicts itself
    ├── DataError           2   a data file or a row in it
    ├── ModelError          2   a base model, tokenizer or adapter
    ├── RunError            2   a run folder: taken, locked, changed under a resume
    ├── CheckpointError     2   a checkpoint cannot be written or none can be read
    ├── OutOfMemory         1   the step did not fit
    └── Diverged            1   a loss or gradient stopped being a number

A message says what is wrong, where, and what to do. Errors are raised where they are found and caught only by
the command line, the server and the job runner.
"""

from __future__ import annotations


class BottegaError(Exception):
    """What went wrong, where (`tickets.jsonl line 812, field output`), and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

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


class OutOfMemory(BottegaError):
    pass


class Diverged(BottegaError):
    pass
