"""Settings of the whole process: allocator, environment, threads, deterministic algorithms.

`configured_process` is for a process that bottega owns (the command line, a job): it must run before torch is imported.
`compute_settings` holds only while a run computes, so that two runs, or a run and inference, can share a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from bottega.hardware import memory
from bottega.hardware.other_programs import load_watch

T = TypeVar("T")

# An option of Linux's `prctl`.
PR_SET_PDEATHSIG = 1


def configure() -> None:
    """Set the allocator and the environment for training; variables that are set already keep their values."""
    memory.configure_allocator()
    # cuBLAS adds up in a fixed order only if this is set before its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def configured_process() -> Iterator[None]:
    """Inside, the process has the settings of a command: `configure`, memory limits checked, other programs watched."""
    configure()
    memory.check_imports()
    with load_watch():
        yield


@contextmanager
def compute_settings(threads: int) -> Iterator[None]:
    """Inside the `with` block, torch has `threads` threads and deterministic algorithms; then its previous settings."""
    import torch

    deterministic = torch.utils.deterministic
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        getattr(deterministic, "fill_uninitialized_memory"),  # noqa: B009, untyped
    )
    if before[0] != threads:
        torch.set_num_threads(threads)
    # A warning only: operations without a deterministic kernel on CUDA would otherwise end the run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode fills fresh memory with NaN, to expose reads of it: a tenth of a step, for nothing here.
    setattr(deterministic, "fill_uninitialized_memory", False)  # noqa: B010, untyped
    try:
        yield
    finally:
        if before[0] != threads:
            torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        setattr(deterministic, "fill_uninitialized_memory", before[3])  # noqa: B010, untyped


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when the thread that forked it ends; `parent`: that thread's process."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def iterate_within(items: Iterator[T], context: Callable[[], AbstractContextManager[None]]) -> Generator[T, None, None]:
    """The items of an iterator, each computed inside a context that is left again before the item is yielded.

    context  makes a new context manager for each item
    """
    try:
        while True:
            with context():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        # Closing this generator must close the inner one, or its cleanup would wait for the garbage collector.
        if isinstance(items, Generator):
            items.close()
