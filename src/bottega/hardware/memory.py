"""Memory of the process: its allocator, Python's garbage collector, its limits and its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from typing import Any, NamedTuple

from bottega.errors import OutOfMemory, is_out_of_memory

# Parameters of glibc's `mallopt`.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# Bytes up to which freed blocks stay with the process; a larger one is mapped and unmapped by itself.
MALLOC_THRESHOLD = 1 << 30

# The number of kernels that oneDNN caches, as an environment variable; its default is 1,024. It compiles one of some
# megabytes for each shape, and rows of mixed lengths have no end of shapes: a model of 12 layers of width 576 grew from
# 2.3 to 3.4 GB in twenty updates of rows of 400 tokens, and stayed at 2.6 GB with 32 kernels. An update of a quarter of
# a second took 7 % longer with 32 kernels, and up to 3 % with 64.
ONEDNN_CACHE_CAPACITY = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def configure_allocator() -> None:
    """Let freed memory stay with the process, since every step requests the same blocks again, and cache few kernels.

    Environment variables that are set already keep their values. Does nothing for an allocator without `mallopt`.
    """
    os.environ.setdefault(*ONEDNN_CACHE_CAPACITY)
    if sys.platform == "linux":
        # By default glibc maps each large block anew and unmaps it when freed, and the kernel zeroes all its pages.
        # musl has no `mallopt`; a value that glibc refuses changes nothing.
        with contextlib.suppress(AttributeError, OSError):
            library = ctypes.CDLL(None)
            library.mallopt(MMAP_THRESHOLD, MALLOC_THRESHOLD)
            library.mallopt(TRIM_THRESHOLD, MALLOC_THRESHOLD)


def return_freed() -> None:
    """Give freed memory back to the system: after a piece of work that needed much more than what follows."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # musl has no `malloc_trim`
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def frozen_imports() -> Iterator[None]:
    """Exclude the objects created inside the `with` block, by importing torch, from garbage collection for good.

    The imports create a million objects that live as long as the process. The collector takes a fifth of the imports'
    time, and would search those objects again during training.
    """
    # With torch imported there is little to gain, and `gc.freeze` would keep any garbage of the caller for ever.
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class MemoryNeed(NamedTuple):
    """Bytes a process needs to import a library: of address space, and of private writable memory."""

    address_space: float
    data: float


# Measured with two threads, with the threads that watch for signals and other programs running; torch together with
# transformers and PEFT.
IMPORT_NEEDS = {"numpy": MemoryNeed(0.35e9, 0.12e9), "torch": MemoryNeed(1.4e9, 0.5e9)}


class ImportLimits(MetaPathFinder):
    """An import hook that raises OutOfMemory for a library that the process's memory limits have no room for."""

    # The libraries fail badly themselves: OpenBLAS retries for ever while holding the GIL, and C++ aborts the process.
    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name in IMPORT_NEEDS:
            check_limits(name, IMPORT_NEEDS[name])


def check_imports() -> None:
    """From now on, check the process's memory limits before each library of IMPORT_NEEDS is imported."""
    sys.meta_path.insert(0, ImportLimits())


def check_limits(name: str, need: MemoryNeed) -> None:
    """Raise OutOfMemory if the memory limits of the process are below a library's need."""
    limits = ((resource.RLIMIT_AS, "-v", need.address_space), (resource.RLIMIT_DATA, "-d", need.data))
    for limit, option, needed in limits:
        soft, hard = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and soft < needed:
            # A process may raise its soft limit up to the hard one, and the hard one not at all.
            value = "unlimited" if hard == resource.RLIM_INFINITY else "hard" if hard >= needed else ""
            raise OutOfMemory(
                f"{name} needs {needed / 1e9:.2f} GB of memory, and this process may use {soft / 1e9:.2f} GB",
                where=f"the limit of ulimit {option}",
                fix=f"raise it: ulimit {option} {value}"
                if value
                else "have an administrator raise it, or use another machine",
            )


def peak_bytes() -> int:
    """Peak resident memory of this process and its finished children, in bytes."""
    children = _peak(resource.RUSAGE_CHILDREN)
    return _peak(resource.RUSAGE_SELF) + (children if children > _left_out else 0)


# Peak of the children that `leave_out_ended_children` was called for.
_left_out = 0


def leave_out_ended_children() -> None:
    """Leave the children that ended so far out of `peak_bytes`: forked ones, which share most memory with this process.

    The system reports the largest peak among all children only, so smaller ones are left out with it.
    """
    global _left_out
    _left_out = _peak(resource.RUSAGE_CHILDREN)


def _peak(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, and in KiB on Linux
    return unit * resource.getrusage(who).ru_maxrss


def resident_bytes() -> int:
    """Resident memory of this process in bytes; where the system does not say, its peak."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_bytes()


def format_peak_memory(host: float, device: float) -> str:
    """Peak bytes of the process as text; with those of an accelerator if there is one (not 0)."""
    return f"{host / 1e9:.1f} GB (host), {device / 1e9:.1f} GB (GPU)" if device else f"{host / 1e9:.1f} GB"


@contextlib.contextmanager
def out_of_memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory errors inside the `with` block into OutOfMemory, with what to do about it."""
    import torch

    try:
        yield
    # Besides its own error class, torch raises a plain RuntimeError when the CPU's allocator fails.
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "the step did not fit into memory",
            fix="lower optim.tokens, set optim.checkpointing=true, or train an adapter",
        ) from error
