"""Other programs on the same cores: their load is measured, this process yields, and no result changes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottega.hardware import other_programs
from bottega.hardware.other_programs import CpuTime, SlowdownDetector, cores_of_others, read_cpu_time

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system does not report it")


def test_cores_of_others_are_busy_time_less_our_own() -> None:
    assert cores_of_others(CpuTime(10.0, 100.0, 5.0), CpuTime(12.0, 103.0, 6.0)) == pytest.approx(1.0)
    assert cores_of_others(CpuTime(10.0, 100.0, 5.0), CpuTime(12.0, 102.0, 7.0)) == 0.0
    # Clocks of the process and of the cores differ by ticks.
    assert cores_of_others(CpuTime(10.0, 100.0, 5.0), CpuTime(12.0, 101.9, 7.0)) == 0.0


@linux
def test_only_usable_cores_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_programs, "usable_cores", lambda: {1, 10})
    stat = tmp_path / "stat"
    lines = ["cpu  9 9 9 9 9 9 9 9 9 9", *(f"cpu{core} {core}00 20 30 999 999 4 5 99 0 0" for core in (0, 1, 10))]
    stat.write_text("\n".join([*lines, "intr 1 2 3"]), encoding="ascii")
    found = read_cpu_time(stat)
    assert found is not None
    assert found.busy * os.sysconf("SC_CLK_TCK") == pytest.approx(100 + 59 + 1000 + 59)
    assert read_cpu_time(tmp_path / "none") is None
    stat.write_text("nothing of the kind", encoding="ascii")
    assert read_cpu_time(stat) is None


@pytest.mark.parametrize(
    ("yielding", "samples", "expected"),
    [
        (False, [0.0, 0.0, 0.39], False),
        (False, [0.0, 0.0, 0.42], True),
        (False, [0.63], True),
        (True, [0.0], True),
        (True, [0.0, 0.0], True),
        (True, [0.0, 0.5, 0.0], True),
        (True, [0.41, 0.41, 0.41], False),
        (True, [0.65, 0.41, 0.41], True),
    ],
)
def test_when_to_yield(yielding: bool, samples: list[float], expected: bool) -> None:
    """One that wants half of a core takes 0.41 of it while we yield; one that wants all, 0.63 while we do not."""
    assert other_programs.should_yield(yielding, samples) is expected


YIELDING = """
import os, sys, threading, time
import torch
from bottega.hardware import other_programs

torch.set_num_threads(2)
other_programs.INTERVAL_SECONDS = 0.05
taken = [1.0]
other_programs.cores_of_others = lambda before, after: taken[0]
other_programs.usable_cores = lambda: {0, 1}

def threads():
    return len(os.listdir("/proc/self/task"))

def computed():
    torch.manual_seed(0)
    one = torch.randn(700, 700)
    return ((one @ one).softmax(-1) @ one).double().sum().item()

def until(reached):
    end = time.monotonic() + 20
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)
    return reached()

first, alone = computed(), threads()
with other_programs.load_watch() as watch:
    with other_programs.load_watch() as again:
        assert again is watch
    assert until(lambda: watch.yielding and threads() >= alone + 3), "no team of its own"
    beside = computed()
    taken[0] = 0.0
    assert until(lambda: not watch.yielding and threads() == alone + 1), "it is kept"
assert until(lambda: threads() == alone)
print(first == beside == computed(), watch.cores_of_others)
"""


@linux
def test_idle_teams_run_while_others_are_busy_and_results_stay_bitwise_equal() -> None:
    code = [sys.executable, "-c", YIELDING]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.stdout.split() == ["True", "0.0"], done.stderr


@linux
def test_a_busy_program_is_measured() -> None:
    before = read_cpu_time()
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1)
        after = read_cpu_time()
    finally:
        spinning.kill()
        spinning.wait()
    assert before is not None
    assert after is not None
    # On a machine that is full it gets less than a core.
    assert cores_of_others(before, after) > 0.2


def notes(rates: list[float], others: float | None) -> list[str]:
    """The notes after updates of these seconds, one token each."""
    detector = SlowdownDetector()
    return [note for rate in rates if (note := detector.note_if_slower(rate, 1, others))]


def test_much_slower_updates_are_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_programs, "usable_cores", lambda: {0, 1})
    slow = [0.2] * 100 + [0.6] * 100
    note = "another program uses 0.9 of 2 cores, and updates take 3.0 times as long as before"
    assert notes(slow, 0.9) == [note]
    assert notes(slow, 2.0) == [note.replace("another program uses 0.9", "other programs use 2.0")]


@pytest.mark.parametrize(
    ("rates", "others"),
    [
        ([0.2] * 100 + [0.6] * 100, 0.1),  # nobody else is there
        ([0.2] * 100 + [0.6] * 100, None),  # not reported
        ([0.6] * 200, 0.9),  # never faster
        ([0.2] * 20 + [0.6] * 3, 0.9),  # too short a run
        (([0.2] * 9 + [1.0]) * 20, 0.9),  # now and then
    ],
)
def test_no_note_if_others_did_not_slow_updates(rates: list[float], others: float | None) -> None:
    assert notes(rates, others) == []


def test_longer_rows_do_not_count_as_slower() -> None:
    detector = SlowdownDetector()
    assert not any(detector.note_if_slower(0.2, 100, 0.9) for _ in range(100))
    assert not any(detector.note_if_slower(0.6, 300, 0.9) for _ in range(100))
