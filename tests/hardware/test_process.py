"""Settings of the process: those of a command, and those that hold while a run computes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bottega.errors import OutOfMemory
from bottega.hardware import memory, process
from bottega.hardware.process import compute_settings, configure, configured_process, iterate_within


def settings() -> tuple[int, bool, bool, bool]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def compute_and_fail() -> None:
    with compute_settings(2):
        raise KeyError


def test_settings_hold_while_a_run_computes_and_come_back_after_an_error() -> None:
    before = settings()
    with compute_settings(2):
        assert settings() == (2, True, True, False)
        with compute_settings(1):
            assert settings() == (1, True, True, False)
        assert settings() == (2, True, True, False)
    assert settings() == before
    with pytest.raises(KeyError):
        compute_and_fail()
    assert settings() == before


def test_variables_that_are_set_keep_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("CUBLAS_WORKSPACE_CONFIG", memory.ONEDNN_CACHE_CAPACITY[0])
    for name in names:
        monkeypatch.delenv(name, raising=False)
    configure()
    assert [os.environ[name] for name in names] == [":4096:8", memory.ONEDNN_CACHE_CAPACITY[1]]
    for name in names:
        monkeypatch.setenv(name, "mine")
    configure()
    assert [os.environ[name] for name in names] == ["mine", "mine"]


def test_a_command_watches_other_programs_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    @contextmanager
    def watch() -> Iterator[None]:
        held.append("watched")
        yield
        held.append("released")

    monkeypatch.setattr(process, "load_watch", watch)
    monkeypatch.setattr(memory, "check_imports", lambda: held.append("checked"))
    with configured_process():
        assert held == ["checked", "watched"]
    assert held == ["checked", "watched", "released"]


def test_each_item_is_computed_inside_and_yielded_outside() -> None:
    inside, closed = [False], []

    @contextmanager
    def context() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def items() -> Generator[bool]:
        try:
            for _ in range(3):
                yield inside[0]
        finally:
            closed.append(inside[0])

    found = [(computed_inside, inside[0]) for computed_inside in iterate_within(items(), context)]
    assert found == [(True, False)] * 3
    assert closed == [True]
    inner = items()
    started = iterate_within(inner, context)
    next(started)
    started.close()
    assert len(closed) == 2, "closing the outer generator closes the inner one at once"
    assert list(iterate_within(iter([1, 2]), context)) == [1, 2]


def test_an_error_inside_leaves_the_context() -> None:
    left = []

    @contextmanager
    def context() -> Iterator[None]:
        try:
            yield
        finally:
            left.append(True)

    def items() -> Iterator[int]:
        yield 1
        raise OutOfMemory("full")

    found = iterate_within(items(), context)
    assert next(found) == 1
    with pytest.raises(OutOfMemory):
        next(found)
    assert left == [True, True]


ORPHAN = """
import os, sys, time
from bottega.hardware.process import end_with_parent

def wait():
    end_with_parent(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)

parent = os.getpid()
if os.fork() == 0:
    wait()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's")
def test_a_child_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
    for _ in range(200):
        if not child.exists() or " Z " in (child / "stat").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives on")
