"""Settings of the whole process, made here and nowhere else.

`configured_process` is for a process of our own (the command line, a job): it must come before torch is imported.
`computing` holds only while a run computes, so that two runs, or a run and inference, can share a process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from bottega.hardware import memory
from bottega.hardware.other_programs import watched

T = TypeVar("T")


def configure() -> None:
    """Set the allocator and the environment as training wants them; what the environment already says stays."""
    memory.keep()
    # cuBLAS adds up in one order only if asked before its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def configured_process() -> Iterator[None]:
    """Inside, the process has the settings of a command: `configure`, memory limits checked, other programs watched."""
    configure()
    memory.guard_imports()
    with watched():
        yield


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Inside, torch has so many threads and deterministic algorithms; afterwards what it had before."""
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
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN finds reads of nothing; here it costs a tenth of a step.
    setattr(deterministic, "fill_uninitialized_memory", False)  # noqa: B010, untyped
    try:
        yield
    finally:
        if before[0] != threads:
            torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        setattr(deterministic, "fill_uninitialized_memory", before[3])  # noqa: B010, untyped


def one_by_one(items: Iterator[T], within: Callable[[], AbstractContextManager[None]]) -> Generator[T, None, None]:
    """The items of a generator, each computed inside a context that is left before it is handed out."""
    try:
        while True:
            with within():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        if isinstance(items, Generator):
            items.close()
