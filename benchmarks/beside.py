"""Compare the speed of this build with an earlier one, workload by workload: nothing may have become slower.

    python benchmarks/beside.py REVISION [--only NAME …] [--rounds 5] [--override KEY=VALUE …] [--out FILE]

Both builds run the same workload from the same folder in fresh processes, taking turns; which one goes first
alternates. The same update of the same build may take half as long again in the next run, but a disturbance only ever
adds time. So the shortest time of every update over all rounds is taken, and the sums are compared. The geometric mean
of the ratios of single pairs is shown beside it: equal builds differ by several per cent in a pair.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import geometric_mean, median

import measuring
from bench import WORKLOADS
from equal_runs import checkout
from machine import describe_machine
from measuring import OVERRIDES, Measure

HERE = Path(__file__).parent
CURRENT = HERE.parent / "src"
# The largest acceptable ratio of times, current / before.
LIMIT = 1.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5, help="pairs per workload")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every recipe")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    OVERRIDES.extend(options.override)
    with tempfile.TemporaryDirectory() as temporary:
        before = checkout(options.revision, Path(temporary, "before"))
        lines = [
            f"# Speed compared with {options.revision}",
            "",
            f"{date.today()}, {describe_machine()}. {options.rounds} pairs per workload. Seconds and their ratio are "
            f"of the shortest time of every update; the limit is {LIMIT}. Pairs: the geometric mean of their ratios.",
            *(["", f"Every recipe has {', '.join(OVERRIDES)}."] if OVERRIDES else []),
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


def compare(name: str, folder: Path, before: Path, rounds: int) -> str:
    """The workload's row of the table."""
    workload = WORKLOADS[name](folder, sys.executable)
    measures: dict[Path, list[Measure]] = {before: [], CURRENT: []}
    for index in range(rounds):
        for source in (before, CURRENT) if index % 2 == 0 else (CURRENT, before):
            with imported_from(source):
                measures[source].append(workload.ours.run())
        pair = measures[CURRENT][-1].seconds / measures[before][-1].seconds
        print(f"{name} | {index + 1} | {pair:.3f}", file=sys.stderr, flush=True)
    then, now = shortest_seconds(measures[before]), shortest_seconds(measures[CURRENT])
    pairs = list(zip(measures[before], measures[CURRENT], strict=True))
    mean = geometric_mean([after.seconds / earlier.seconds for earlier, after in pairs])
    memory = median(after.memory / earlier.memory for earlier, after in pairs if earlier.memory)
    verdict = "" if now / then <= LIMIT else "SLOWER"
    return f"| {workload.title} | {then:.2f} | {now:.2f} | {now / then:.3f} | {mean:.3f} | {memory:.2f} | {verdict} |"


def shortest_seconds(runs: list[Measure]) -> float:
    """The sum over updates of their shortest time in any run."""
    # A workload without updates, or runs that end at a loss and so differ in their updates.
    if not runs[0].parts or len({len(run.parts) for run in runs}) > 1:
        return min(run.seconds for run in runs)
    return sum(map(min, zip(*(run.parts for run in runs), strict=True)))


@contextmanager
def imported_from(source: Path) -> Iterator[None]:
    """Child processes import bottega from `source`, and run the scripts beside it."""
    path, before = os.environ.get("PYTHONPATH"), measuring.measured_checkout
    os.environ["PYTHONPATH"], measuring.measured_checkout = str(source), source.parent
    try:
        yield
    finally:
        measuring.measured_checkout = before
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


if __name__ == "__main__":
    main()
