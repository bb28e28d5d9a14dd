"""Compare the speed of this build with an earlier one, workload by workload: nothing may have become slower.

    python benchmarks/beside.py REVISION [--only NAME …] [--rounds 3] [--override KEY=VALUE …] [--out FILE]

Both builds run the same workload at once, each in processes of its own: one is stopped while the other computes, and
they change five times a second. So both meet the same disturbances: equal builds differ by one or two per cent in a
pair, by four if they change every second, and by up to thirty if one runs after the other. What counts is the measured
part of a workload, such as its updates, without the time stopped.

A build that leaves the cores to other programs would leave them to the other build, so here it does not look for them.
"""

from __future__ import annotations

import argparse
import compileall
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from statistics import geometric_mean, median

import measuring
from bench import WORKLOADS
from equal_runs import checkout
from machine import describe_machine
from measuring import Measure

HERE = Path(__file__).parent
CURRENT = HERE.parent / "src"
# The largest acceptable ratio of times, current / before.
LIMIT = 1.03
# Seconds that a build computes before it is the other one's turn, and between two looks whether it has ended.
TURN, LOOK = 0.2, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3, help="pairs per workload")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every recipe")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    # As an exception, so that both builds are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    measuring.OVERRIDES.extend(options.override)
    with tempfile.TemporaryDirectory() as temporary:
        before = checkout(options.revision, Path(temporary, "before"))
        # Else the first run would compile them in its measured time.
        for source in (before, CURRENT):
            compileall.compile_dir(source, quiet=1)
        lines = [
            f"# Speed compared with {options.revision}",
            "",
            f"{date.today()}, {describe_machine()}. {options.rounds} pairs per workload, both builds of a pair at once "
            f"and in turns. Seconds are medians, now / before the geometric mean of the pairs; the limit is {LIMIT}.",
            *(["", f"Every recipe has {', '.join(options.override)}."] if options.override else []),
            "",
            "| workload | before, s | now, s | now / before | pairs | memory | |",
            "|---|---|---|---|---|---|---|",
        ]
        print("\n".join(lines), flush=True)
        for name in options.only:
            folder = Path(temporary, name)
            folder.mkdir()
            try:
                lines.append(compare(name, folder, before, options.rounds))
            except FileNotFoundError as missing:
                print(f"{name} is skipped: {missing}", file=sys.stderr)
                continue
            print(lines[-1], flush=True)
            if options.out:
                options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


@dataclass
class Build:
    """A build while it runs a workload, in turns with another.

    process   leads a process group of its own, so that all it starts is stopped with it
    measured  receives the measure at the end
    turns     (start, end) of each turn, on the clock of `time.time`
    """

    process: ForkProcess
    measured: Connection
    turns: list[tuple[float, float]] = field(default_factory=list)

    def compute(self) -> None:
        """Let it compute for one turn, or until it ends."""
        started = time.time()
        self._signal(signal.SIGCONT)
        # Its process is waited for in short steps: the turn ends with it.
        while time.time() < started + TURN and self.process.is_alive():
            time.sleep(LOOK)
        self._signal(signal.SIGSTOP)
        self.turns.append((started, time.time()))

    def result(self) -> tuple[float, float]:
        """(seconds it computed on what is measured, peak bytes); ends the program if the build failed."""
        if self.process.exitcode:
            sys.exit("a build failed: see above")
        measure: Measure = self.measured.recv()
        return sum(self._computed(*span) for span in measure.spans), measure.memory

    def end(self) -> None:
        """Leave nothing behind, stopped or computing."""
        self._signal(signal.SIGKILL)
        self.process.join()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.is_alive():
            os.killpg(self.process.pid or 0, number)

    def _computed(self, start: float, end: float) -> float:
        """The seconds between two times in which it was its turn."""
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in self.turns)


def compare(name: str, folder: Path, before: Path, rounds: int) -> str:
    """The workload's row of the table; a FileNotFoundError if its data is missing."""
    title = WORKLOADS[name](folder, sys.executable).title
    results = []
    for index in range(rounds):
        then, now = run_pair(name, folder, (before, CURRENT), first=index % 2)
        results.append((then, now))
        print(f"{name} | {index + 1} | {now[0] / then[0]:.3f}", file=sys.stderr, flush=True)
    ratios = [now[0] / then[0] for then, now in results]
    ratio = geometric_mean(ratios)
    before_s, now_s = (median(pair[build][0] for pair in results) for build in (0, 1))
    memory = median(now[1] / then[1] for then, now in results if then[1])
    verdict = "" if ratio <= LIMIT else "SLOWER"
    pairs = ", ".join(f"{each:.3f}" for each in ratios)
    return f"| {title} | {before_s:.2f} | {now_s:.2f} | {ratio:.3f} | {pairs} | {memory:.2f} | {verdict} |"


def run_pair(name: str, folder: Path, sources: tuple[Path, Path], first: int) -> list[tuple[float, float]]:
    """The result of each of two builds, which run a workload at once; `first`: the one that begins."""
    builds: list[Build] = []
    try:
        builds += [start(name, Path(tempfile.mkdtemp(dir=folder)), source) for source in sources]
        for build in cycle((builds[first], builds[1 - first])):
            if build.process.is_alive():
                build.compute()
            elif not any(each.process.is_alive() for each in builds):
                break
        return [build.result() for build in builds]
    finally:
        for build in builds:
            build.end()


def start(name: str, folder: Path, source: Path) -> Build:
    """A stopped process that runs a workload in a folder of its own with the build in `source`."""
    measured, sent = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=measure_build, args=(name, folder, source, sent))
    process.start()
    # It stops itself as soon as it leads its group.
    os.waitid(os.P_PID, process.pid or 0, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return Build(process, measured)


def measure_build(name: str, folder: Path, source: Path, sent: Connection) -> None:
    """Measure a workload with the build in `source`, in this process and those that it starts."""
    os.setsid()
    os.kill(os.getpid(), signal.SIGSTOP)
    os.environ["PYTHONPATH"] = f"{HERE / 'alone'}:{source}"
    measuring.measured_checkout = source.parent
    sent.send(WORKLOADS[name](folder, sys.executable).ours.run())


if __name__ == "__main__":
    main()
