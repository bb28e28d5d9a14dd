"""Other programs on the cores this process may use, and waiting that does not take the cores from them.

The threads of an OpenMP team wait for each other after every parallel operation. Those of libgomp, which torch's CPU
builds bring along, spin meanwhile, so that beside one busy program two threads on two cores take three to four times
as long for a step instead of one and a half times: the one waits for the other, which waits for a core. libgomp spins
300,000 rounds, but only a hundred while the process has more OpenMP threads than it has cores (GOMP_SPINCOUNT in its
manual). As long as another program is busy here, idle threads therefore keep teams of their own. That can be changed
at any moment, unlike the environment variables, and no result changes with it: the same threads compute the same parts.
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

INTERVAL = 0.5
"""Seconds between two looks."""

BUSY, QUIET = 0.4, 0.45
"""Cores that others take: from so many on we give way to them, until for three looks it was less than so many.

Beside a program that wants half of a core spinning is the faster, beside one that wants three quarters giving way; the
one takes about 0.3 of a core while we spin and 0.4 while we give way, the other 0.45 and 0.65.
"""

FORKED = 1 << 16
"""Elements enough for torch to use every thread of a team."""


class Use(NamedTuple):
    """Seconds since some beginning: by the clock, that the cores were busy, and of that for this process."""

    wall: float
    busy: float
    own: float


def cores() -> set[int]:
    """The cores this process may use."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def use(stat: Path = Path("/proc/stat")) -> Use | None:
    """How busy those cores have been so far; None where the system does not tell."""
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    names, ticks, found = {f"cpu{core}" for core in cores()}, os.sysconf("SC_CLK_TCK"), list[int]()
    for name, *fields in (line.split() for line in lines):
        if name in names:
            # user, nice, system, idle, waiting for disks, two kinds of interrupts; what follows is not spent here.
            user, nice, system, _, _, hard, soft = map(int, fields[:7])
            found.append(user + nice + system + hard + soft)
    return Use(time.monotonic(), sum(found) / ticks, time.process_time()) if found else None


def others(before: Use, after: Use) -> float:
    """Cores that other programs kept busy between the two."""
    wall = max(after.wall - before.wall, 1e-3)
    return max(0.0, (after.busy - before.busy - (after.own - before.own)) / wall)


def look(seconds: float = INTERVAL) -> float | None:
    """Cores that other programs keep busy, seen for so long; None where the system does not tell."""
    before = use()
    time.sleep(seconds)
    after = use()
    return None if before is None or after is None else others(before, after)


def gives_way(now: bool, looks: Sequence[float]) -> bool:
    """Whether to give way from here on, by what others took at each look, of those since that last changed."""
    return len(looks) < 3 or max(looks) >= QUIET if now else looks[-1] >= BUSY


class Watch:
    """A thread that looks for other programs as long as it is open, and lets ours spin only where nobody else waits.

    others  cores that other programs took when it looked last; None before that, or where the system does not tell
    """

    def __init__(self) -> None:
        self.others: float | None = None
        self.gives_way = False
        self._closed = threading.Event()
        self._release = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="neighbours", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _look_on(self) -> None:
        before, looks = use(), deque[float](maxlen=3)
        while before is not None and not self._closed.wait(INTERVAL):
            after = use()
            if after is None:
                break
            self.others, before = others(before, after), after
            looks.append(self.others)
            if gives_way(self.gives_way, looks) != self.gives_way:
                looks.clear()
                self._spin() if self.gives_way else self._give_way()
        self._spin()

    def _give_way(self) -> None:
        """Start idle teams, so many that the process has more threads than cores."""
        threads = _threads()
        if threads < 2:
            return
        self.gives_way, self._release = True, threading.Event()
        teams = max(1, -(-(len(cores()) - threads + 1) // (threads - 1)))
        for _ in range(teams):
            threading.Thread(target=_keep_team, args=(self._release,), name="idle team", daemon=True).start()

    def _spin(self) -> None:
        """End the idle teams."""
        self._release.set()
        self.gives_way = False


def _threads() -> int:
    """The threads that torch computes with; 1 while it is not there, or not all of it."""
    try:
        torch = sys.modules["torch"]
        return int(torch.get_num_threads()) if torch.backends.openmp.is_available() else 1
    except (KeyError, AttributeError):  # another thread is importing it
        return 1


def _keep_team(release: threading.Event) -> None:
    """Have a team of OpenMP threads of this thread's own, until released."""
    import torch

    torch.zeros(FORKED).add_(1)
    release.wait()


_watch: Watch | None = None


@contextmanager
def watched() -> Iterator[Watch]:
    """The process's watch: the one that is open, or one that ends with this block."""
    global _watch
    if _watch is not None:
        yield _watch
        return
    _watch = Watch()
    try:
        yield _watch
    finally:
        _watch.close()
        _watch = None


class Pace:
    """How long updates take for a token, and whether another program has made that much longer.

    What is told is told once, of the last seconds beside all before them.
    """

    RECENT, BEFORE, SLOWER = 5.0, 10.0, 1.5

    def __init__(self) -> None:
        self.before, self.recent = deque[float](maxlen=1000), deque[tuple[float, float]]()
        self.seconds, self.told = 0.0, False

    def slowed(self, seconds: float, tokens: int, others: float | None) -> str:
        """What to say after an update of so many seconds and tokens; empty for nothing."""
        self.recent.append((seconds, seconds / max(tokens, 1)))
        while sum(second for second, _ in self.recent) - self.recent[0][0] >= self.RECENT:
            spent, rate = self.recent.popleft()
            self.seconds += spent
            self.before.append(rate)
        if self.told or others is None or others < BUSY or self.seconds < self.BEFORE or not self.before:
            return ""
        slower = _middle(rate for _, rate in self.recent) / max(_middle(self.before), 1e-12)
        if slower < self.SLOWER:
            return ""
        self.told = True
        who = "another program takes" if others < 1.5 else "other programs take"
        return f"{who} {others:.1f} of {len(cores())} cores, and updates take {slower:.1f} times as long as before"


def _middle(values: Iterable[float]) -> float:
    """The median; of an even number of values the upper one in the middle."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
