"""Memory of the process: how C hands it out, what Python searches it for, and how much was ever resident."""

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

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""

LARGE = 1 << 30

KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""How many kernels oneDNN keeps, by the name it asks the environment for; its own number is 1,024.

It makes one for each shape it meets, of some megabytes each, and rows of mixed lengths have no end of shapes: 12 layers
of 576 grew from 2.3 to 3.4 GB in twenty updates of rows of 400 tokens, and with 32 kernels stayed at 2.6. With 32 an
update of a quarter of a second took 7 % longer, with 64 up to 3 %.
"""


def keep() -> None:
    """Let freed memory stay with the process, as every step asks for the same blocks again, and keep few kernels.

    glibc maps a large block anew at each request and gives it back at once, and the kernel clears each of its pages.
    Where there is no `mallopt` nothing happens; a value it refuses leaves things as they were.
    """
    os.environ.setdefault(*KERNELS)
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            library = ctypes.CDLL(None)
            library.mallopt(MMAP_THRESHOLD, LARGE)
            library.mallopt(TRIM_THRESHOLD, LARGE)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For the imports of torch and what builds on it: the million objects they make stay, so do not search them.

    Python's collector takes a fifth of the time of those imports, and comes back to them during training. In a process
    that has torch already nothing is done: garbage that stands there then would never be freed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Need(NamedTuple):
    """Bytes that a process takes which has imported a library: of addresses, and of those that are its own to write."""

    addresses: float
    data: float


NEEDS = {"numpy": Need(0.35e9, 0.12e9), "torch": Need(1.4e9, 0.5e9)}
"""Measured with two threads, those that watch for signals and neighbours included; torch with transformers and PEFT."""


class Limits(MetaPathFinder):
    """Refuses to import what a limit on the process's memory has no room for.

    The libraries themselves do not all say so: OpenBLAS asks for ever, holding Python's lock, and C++ ends the process.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name in NEEDS:
            check_limits(name, NEEDS[name])


def guard_imports() -> None:
    """Look at the limits of the process before each library of NEEDS is imported."""
    sys.meta_path.insert(0, Limits())


def check_limits(name: str, need: Need) -> None:
    """OutOfMemory where the process may not take as much memory as a library needs."""
    for kind, option, bytes_ in ((resource.RLIMIT_AS, "-v", need.addresses), (resource.RLIMIT_DATA, "-d", need.data)):
        allowed, most = resource.getrlimit(kind)
        if allowed != resource.RLIM_INFINITY and allowed < bytes_:
            what = f"{name} needs {bytes_ / 1e9:.2f} GB of memory, and this process may take {allowed / 1e9:.2f} GB"
            raised = "unlimited" if most == resource.RLIM_INFINITY else "hard" if most >= bytes_ else ""
            how = f"raise it: ulimit {option} {raised}" if raised else "have it raised, or use another machine"
            raise OutOfMemory(what, where=f"the limit of ulimit {option}", fix=how)


def peak() -> int:
    """Peak resident bytes of this process and its finished children."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def in_words(host: float, card: float) -> str:
    """Peak bytes of the process, and of an accelerator where there is one, both named."""
    return f"{host / 1e9:.1f} GB (host), {card / 1e9:.1f} GB (GPU)" if card else f"{host / 1e9:.1f} GB"


@contextlib.contextmanager
def out_of_memory_errors() -> Iterator[None]:
    """Turn what torch raises without memory into an OutOfMemory with its remedies."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "the step did not fit into memory",
            fix="lower optim.tokens, set optim.checkpointing=true, or train an adapter",
        ) from error
