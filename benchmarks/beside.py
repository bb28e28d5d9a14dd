"""Compare the speed of this build with an earlier one, workload by workload: nothing may have become slower.

    python benchmarks/beside.py REVISION [--only NAME …] [--rounds 3] [--override KEY=VALUE …] [--out FILE]

Both builds run the same workload from the same folder in fresh processes, both at once: one is stopped while the other
computes, and they change every second. So both meet the same disturbances: equal builds differ by about one per cent in
a pair, where they differ by twenty if one runs after the other. What counts is the time of the updates, without the
time stopped; of a workload without updates the time of the whole process.

A build that leaves the cores to other programs would do so for the other build, so here it does not look for them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from itertools import cycle
from pathlib import Path
from statistics import geometric_mean, median

import measuring
from bench import WORKLOADS
from equal_runs import checkout
from machine import describe_machine

HERE = Path(__file__).parent
CURRENT = HERE.parent / "src"
# The largest acceptable ratio of times, current / before.
LIMIT = 1.03
# Seconds that a build computes before it is the other one's turn, and between two looks whether it has ended.
TURN, LOOK = 1.0, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3, help="pairs per workload")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every recipe")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    measuring.OVERRIDES.extend(options.override)
    if options.measure:
        measure_here(options.only[0], options.measure, Path(options.revision))
        return
    with tempfile.TemporaryDirectory() as temporary:
        before = checkout(options.revision, Path(temporary, "before"))
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
    """A build while it runs a workload, in turns with another."""

    process: subprocess.Popen[str]
    turns: list[tuple[float, float]] = field(default_factory=list)

    def run(self) -> None:
        """Let it compute for one turn, or until it ends."""
        started = time.time()
        os.killpg(self.process.pid, signal.SIGCONT)
        while time.time() < started + TURN and self.process.poll() is None:
            time.sleep(LOOK)
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGSTOP)
        self.turns.append((started, time.time()))

    def result(self) -> tuple[float, float]:
        """(seconds it computed on what is measured, peak bytes)."""
        output, errors = self.process.communicate()
        if self.process.returncode:
            sys.exit(errors[-3000:])
        spans, memory = json.loads(output.splitlines()[-1])
        return sum(self._computed(*span) for span in spans), memory

    def _computed(self, start: float, end: float) -> float:
        """The seconds between two times in which it was its turn."""
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in self.turns)


def compare(name: str, folder: Path, before: Path, rounds: int) -> str:
    """The workload's row of the table."""
    results: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for index in range(rounds):
        builds = [start(name, folder, source) for source in (before, CURRENT)]
        for build in cycle(builds if index % 2 == 0 else builds[::-1]):
            if build.process.returncode is None:
                build.run()
            elif all(each.process.returncode is not None for each in builds):
                break
        then, now = (build.result() for build in builds)
        results.append((then, now))
        print(f"{name} | {index + 1} | {now[0] / then[0]:.3f}", file=sys.stderr, flush=True)
    ratios = [now[0] / then[0] for then, now in results]
    ratio = geometric_mean(ratios)
    before_s, now_s = (median(pair[build][0] for pair in results) for build in (0, 1))
    memory = median(now[1] / then[1] for then, now in results if then[1])
    verdict = "" if ratio <= LIMIT else "SLOWER"
    pairs = ", ".join(f"{each:.3f}" for each in ratios)
    title = WORKLOADS[name](folder, sys.executable).title
    return f"| {title} | {before_s:.2f} | {now_s:.2f} | {ratio:.3f} | {pairs} | {memory:.2f} | {verdict} |"


def start(name: str, folder: Path, source: Path) -> Build:
    """A process that runs a workload with the build in `source`, stopped, in a group of its own."""
    own = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, __file__, str(source), "--only", name, "--measure", str(own)]
    overrides = ["--override", *measuring.OVERRIDES] if measuring.OVERRIDES else []
    environment = os.environ | {"PYTHONPATH": f"{HERE / 'alone'}:{source}"}
    process = subprocess.Popen(
        [*command, *overrides],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.killpg(process.pid, signal.SIGSTOP)
    return Build(process)


def measure_here(name: str, folder: Path, source: Path) -> None:
    """Run a workload with the build that this process imports; prints the spans that count, and the peak bytes."""
    measuring.measured_checkout = source.parent
    measure = WORKLOADS[name](folder, sys.executable).ours.run()
    print(json.dumps([measure.spans, measure.memory]))


if __name__ == "__main__":
    main()
