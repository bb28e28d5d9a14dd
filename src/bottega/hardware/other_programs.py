"""Other programs on the cores this process may use, and waiting threads that leave the cores to them.

After every parallel operation the threads of an OpenMP team wait for each other. Those of libgomp, which torch's CPU
builds contain, spin while they wait. Beside one busy program, two threads on two cores then take three to four times as
long for a step, instead of one and a half times: one thread spins for the other, which waits for a core.

libgomp spins for 300,000 rounds, but only for a hundred if the process has more OpenMP threads than cores
(GOMP_SPINCOUNT in its manual). So while another program is busy, idle threads here hold OpenMP teams of their own.
Unlike the environment variables this can be switched at any time, and it changes no result: the same threads compute
the same parts.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Seconds between two measurements, and how many times as long while this process computes nothing: a server that waits
# for questions does not wake for what it has no use for. It counts as computing from this part of a core on.
INTERVAL_SECONDS = 0.5
IDLE_FACTOR, COMPUTING_FROM = 4, 0.1

# Cores used by other programs: from YIELD_FROM on, this process yields; it resumes spinning after SAMPLES measurements
# below RESUME_BELOW. Beside a program that wants half a core spinning is faster, beside one that wants three quarters
# yielding. Measured, the first uses about 0.3 of a core while we spin and 0.4 while we yield, the second 0.45 and 0.65.
YIELD_FROM, RESUME_BELOW = 0.4, 0.45
SAMPLES = 3

# Elements of a tensor large enough for torch to use all threads of a team.
PARALLEL_SIZE = 1 << 16

STAT = Path("/proc/stat")


class CpuTime(NamedTuple):
    """Seconds on three clocks: the wall, busy time of the usable cores, and of that the time of this process."""

    wall: float
    busy: float
    own: float


def usable_cores() -> set[int]:
    """The indices of the cores this process may use."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def read_cpu_time(stat: Path = STAT) -> CpuTime | None:
    """The clocks now; None if the system does not report the busy time of its cores."""
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    names, ticks, busy = {f"cpu{core}" for core in usable_cores()}, os.sysconf("SC_CLK_TCK"), list[int]()
    for name, *fields in (line.split() for line in lines):
        if name in names:
            # user, nice, system, idle, iowait, irq, softirq; then time stolen by the host, and guests' time, which user
            # and nice contain already.
            user, nice, system, _, _, hard_irq, soft_irq = map(int, fields[:7])
            busy.append(user + nice + system + hard_irq + soft_irq)
    return CpuTime(time.monotonic(), sum(busy) / ticks, time.process_time()) if busy else None


def cores_of_others(before: CpuTime, after: CpuTime) -> float:
    """The average number of cores that other programs kept busy between two measurements."""
    wall = max(after.wall - before.wall, 1e-3)
    # The clocks of cores tick less finely than the one of the process, so the difference may come out negative.
    return max(0.0, (after.busy - before.busy - (after.own - before.own)) / wall)


def measure_cores_of_others(seconds: float = INTERVAL_SECONDS) -> float | None:
    """Measure for `seconds` how many cores other programs keep busy; None if the system does not report it."""
    before = read_cpu_time()
    time.sleep(seconds)
    after = read_cpu_time()
    return None if before is None or after is None else cores_of_others(before, after)


def should_yield(yielding: bool, samples: Sequence[float]) -> bool:
    """Whether to yield from now on.

    samples  `cores_of_others` at the last measurements, up to SAMPLES, none from before the last switch
    """
    # Yielding starts at the first busy measurement. It ends after several quiet ones, so as not to switch to and fro.
    if yielding:
        return len(samples) < SAMPLES or max(samples) >= RESUME_BELOW
    return samples[-1] >= YIELD_FROM


class LoadWatch:
    """A thread that measures the load of other programs until `close`, and switches between spinning and yielding.

    cores_of_others  at the last measurement; None before the first, and if the system does not report it
    yielding         idle teams are running, so that waiting threads do not spin
    """

    def __init__(self) -> None:
        self.cores_of_others: float | None = None
        self.yielding = False
        self._closed = threading.Event()  # an event, so that `close` ends a wait at once
        # Set to end the idle teams; each time they are started they get a new one.
        self._release = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="load watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop measuring, and end the idle teams."""
        self._closed.set()
        self._thread.join()

    def _measure(self) -> None:
        before, samples, interval = read_cpu_time(), deque[float](maxlen=SAMPLES), INTERVAL_SECONDS
        while before is not None and not self._closed.wait(interval):
            after = read_cpu_time()
            if after is None:
                break
            computes = after.own - before.own >= COMPUTING_FROM * (after.wall - before.wall)
            interval = INTERVAL_SECONDS * (1 if computes else IDLE_FACTOR)
            self.cores_of_others, before = cores_of_others(before, after), after
            samples.append(self.cores_of_others)
            if should_yield(self.yielding, samples) != self.yielding:
                # What others use depends on whether we yield, so earlier samples no longer count.
                samples.clear()
                self._resume_spinning() if self.yielding else self._start_yielding()
        self._resume_spinning()

    def _start_yielding(self) -> None:
        """Start enough idle teams for the process to have more OpenMP threads than cores."""
        threads = _torch_threads()
        if threads < 2:
            return
        self.yielding, self._release = True, threading.Event()
        # Torch's own threads and threads − 1 for each team, rounded up, must exceed the cores.
        teams = max(1, -(-(len(usable_cores()) - threads + 1) // (threads - 1)))
        for _ in range(teams):
            threading.Thread(target=_hold_idle_team, args=(self._release,), name="idle team", daemon=True).start()

    def _resume_spinning(self) -> None:
        """End the idle teams."""
        self._release.set()
        self.yielding = False


def _torch_threads() -> int:
    """The number of threads torch computes with; 1 as long as torch is not fully imported."""
    try:
        torch = sys.modules["torch"]
        return int(torch.get_num_threads()) if torch.backends.openmp.is_available() else 1
    except (KeyError, AttributeError):  # AttributeError: another thread is importing it
        return 1


def _hold_idle_team(release: threading.Event) -> None:
    """Create a team of OpenMP threads that belongs to this thread, and keep it until `release` is set."""
    import torch

    # OpenMP has a team for each thread that starts a parallel region, and keeps it as long as that thread lives.
    torch.zeros(PARALLEL_SIZE).add_(1)
    release.wait()


# The one watch of this process. Two of them would both start idle teams.
_active_watch: LoadWatch | None = None


@contextmanager
def load_watch() -> Iterator[LoadWatch]:
    """The watch of the process: the active one, or a new one that is closed at the end of the `with` block."""
    global _active_watch
    if _active_watch is not None:
        yield _active_watch
        return
    _active_watch = LoadWatch()
    try:
        yield _active_watch
    finally:
        _active_watch.close()
        _active_watch = None


class SlowdownDetector:
    """Detects, once in a run, that other programs have made updates much slower than before.

    Compares the median seconds per token of the last updates with that of all earlier ones.
    """

    # Seconds of updates that count as recent, and that are needed before them; and the ratio that is reported.
    RECENT, BEFORE, SLOWER = 5.0, 10.0, 1.5

    def __init__(self) -> None:
        self.before = deque[float](maxlen=1000)  # seconds per token
        self.recent = deque[tuple[float, float]]()  # (seconds, seconds per token)
        self.seconds_before, self.reported = 0.0, False

    def note_if_slower(self, seconds: float, tokens: int, cores_of_others: float | None) -> str:
        """Add an update; returns the note to show, empty in most cases."""
        self.recent.append((seconds, seconds / max(tokens, 1)))
        # Updates leave the recent ones as long as those behind them last RECENT seconds by themselves.
        while sum(spent for spent, _ in self.recent) - self.recent[0][0] >= self.RECENT:
            spent, rate = self.recent.popleft()
            self.seconds_before += spent
            self.before.append(rate)
        if self.reported or self.seconds_before < self.BEFORE or not self.before:
            return ""
        if cores_of_others is None or cores_of_others < YIELD_FROM:
            return ""
        # Medians, so that a few slow updates, such as the first of each shape, do not count.
        ratio = _median(rate for _, rate in self.recent) / max(_median(self.before), 1e-12)
        if ratio < self.SLOWER:
            return ""
        self.reported = True
        cores = f"{cores_of_others:.1f} of {len(usable_cores())} cores"
        slower = f"updates take {ratio:.1f} times as long as before"
        return f"{'another program uses' if cores_of_others < 1.5 else 'other programs use'} {cores}, and {slower}"


def _median(values: Iterable[float]) -> float:
    """The median; the upper middle one for an even number of values."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
