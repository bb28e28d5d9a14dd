"""Our rows of the table of speed beside those of an earlier build, in pairs: nothing may have become slower.

    python benchmarks/beside.py REVISION [--only NAME …] [--rounds 3] [--override KEY=VALUE …] [--out FILE]

Both builds do the same work from the same folder in fresh processes, taking turns; which goes first changes with every
round. A pair's ratio is free of what slowly changes on the machine, so the median of these ratios is compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median

from bench import WORKS
from equal_runs import checkout
from machine import described
from measuring import OVERRIDES, Measure

HERE = Path(__file__).parent
NOW = HERE.parent / "src"
SLOWER = 1.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="keys of every recipe")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    OVERRIDES.extend(options.override)
    with tempfile.TemporaryDirectory() as temporary:
        before = checkout(options.revision, Path(temporary, "before"))
        lines = [
            f"# Speed beside {options.revision}",
            "",
            f"{date.today()}, {described()}. {options.rounds} pairs a work; the ratio is the median of the pairs'.",
            *(["", f"Every recipe has {', '.join(OVERRIDES)}."] if OVERRIDES else []),
            "",
            "| work | before, s | now, s | now / before | memory | |",
            "|---|---|---|---|---|---|",
        ]
        print("\n".join(lines), flush=True)
        for name in options.only:
            folder = Path(temporary, name)
            folder.mkdir()
            try:
                lines.append(compare(name, folder, before, options.rounds))
            except FileNotFoundError as missing:
                print(f"{name} is left out: {missing}", file=sys.stderr)
                continue
            print(lines[-1], flush=True)
            if options.out:
                options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


def compare(name: str, folder: Path, before: Path, rounds: int) -> str:
    """The line of a work."""
    work = WORKS[name](folder, sys.executable)
    measured: dict[Path, list[Measure]] = {before: [], NOW: []}
    for index in range(rounds):
        for source in (before, NOW) if index % 2 == 0 else (NOW, before):
            started = time.perf_counter()
            with imported_from(source):
                measured[source].append(work.ours.run())
            which = "now" if source == NOW else "before"
            print(f"{name} | {which} | {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    # Amounts may differ where a run ends by a loss, so seconds are taken a unit of work.
    seconds = {source: [run.seconds / (run.amount or work.amount) for run in runs] for source, runs in measured.items()}
    ratio = median(now / then for then, now in zip(seconds[before], seconds[NOW], strict=True))
    memory = median(
        now.memory / then.memory for then, now in zip(measured[before], measured[NOW], strict=True) if then.memory
    )
    then, now = (median(run.seconds for run in measured[source]) for source in (before, NOW))
    mark = "" if ratio <= SLOWER else "SLOWER"
    return f"| {work.title} | {then:.2f} | {now:.2f} | {ratio:.3f} | {memory:.2f} | {mark} |"


@contextmanager
def imported_from(source: Path) -> Iterator[None]:
    """Child processes import bottega from `source`."""
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(source)
    try:
        yield
    finally:
        if kept is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = kept


if __name__ == "__main__":
    main()
