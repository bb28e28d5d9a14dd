"""Our rows of the table of speed beside those of an earlier build, in pairs: nothing may have become slower.

    python benchmarks/beside.py REVISION [--only NAME …] [--rounds 12] [--override KEY=VALUE …] [--out FILE]

Both builds do the same work from the same folder in fresh processes, taking turns; which goes first changes with every
round. A pair's ratio is free of what slowly changes on the machine. Equal builds still differ by several per cent in a
pair, so pairs are added until the 90 % confidence interval of their geometric mean lies on one side of the limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from math import exp, inf, log, sqrt
from pathlib import Path
from statistics import fmean, median, stdev

from bench import WORKS
from equal_runs import checkout
from machine import described
from measuring import OVERRIDES, Measure

HERE = Path(__file__).parent
NOW = HERE.parent / "src"
LIMIT = 1.03

# Fewer pairs say nothing of their spread.
FEWEST_ROUNDS = 3

# Student's t at 95 % on either side, by the number of pairs.
T_95 = {3: 2.92, 4: 2.35, 5: 2.13, 6: 2.02, 7: 1.94, 8: 1.89, 9: 1.86, 10: 1.83, 11: 1.81, 12: 1.80}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, choices=T_95, default=max(T_95), help="the most pairs a work")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="keys of every recipe")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    OVERRIDES.extend(options.override)
    with tempfile.TemporaryDirectory() as temporary:
        before = checkout(options.revision, Path(temporary, "before"))
        lines = [
            f"# Speed beside {options.revision}",
            "",
            f"{date.today()}, {described()}. At most {options.rounds} pairs a work; the ratio is their geometric "
            f"mean, with its 90 % confidence interval; the limit is {LIMIT}.",
            *(["", f"Every recipe has {', '.join(OVERRIDES)}."] if OVERRIDES else []),
            "",
            "| work | pairs | before, s | now, s | now / before | memory | |",
            "|---|---|---|---|---|---|---|",
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
            with imported_from(source):
                measured[source].append(work.ours.run())
        ratio, low, high = ratio_of(work.amount, measured[before], measured[NOW])
        print(f"{name} | {index + 1} | {ratio:.3f} ({low:.3f} to {high:.3f})", file=sys.stderr, flush=True)
        if high <= LIMIT or low > LIMIT:
            break
    memory = median(
        now.memory / then.memory for then, now in zip(measured[before], measured[NOW], strict=True) if then.memory
    )
    then, now = (median(run.seconds for run in measured[source]) for source in (before, NOW))
    verdict = "not slower" if high <= LIMIT else "SLOWER" if low > LIMIT else "undecided"
    interval = f"{ratio:.3f} ({low:.3f} to {high:.3f})"
    return f"| {work.title} | {index + 1} | {then:.2f} | {now:.2f} | {interval} | {memory:.2f} | {verdict} |"


def ratio_of(amount: float, before: list[Measure], now: list[Measure]) -> tuple[float, float, float]:
    """The geometric mean of the pairs' ratios of time, and the ends of its confidence interval."""
    # Amounts may differ where a run ends by a loss, so seconds are taken a unit of work.
    ratios = [
        log((new.seconds / (new.amount or amount)) / (old.seconds / (old.amount or amount)))
        for old, new in zip(before, now, strict=True)
    ]
    middle = fmean(ratios)
    half = T_95[len(ratios)] * stdev(ratios) / sqrt(len(ratios)) if len(ratios) >= FEWEST_ROUNDS else inf
    return exp(middle), exp(middle - half), exp(middle + half)


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
