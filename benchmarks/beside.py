"""Our rows of the table of speed beside those of an earlier build, in pairs: nothing may have become slower.

    python benchmarks/beside.py REVISION [--only NAME …] [--rounds 5] [--override KEY=VALUE …] [--out FILE]

Both builds do the same work from the same folder in fresh processes, taking turns; which goes first changes with every
round. The same update of the same build may take half as long again in the next run, and equal builds differ by several
per cent in a pair, but what disturbs a run only ever adds time. So the shortest time of every update over all rounds is
taken, and their sums are compared. The geometric mean of the pairs is shown beside it.
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

from bench import WORKS
from equal_runs import checkout
from machine import described
from measuring import OVERRIDES, Measure

HERE = Path(__file__).parent
NOW = HERE.parent / "src"
LIMIT = 1.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=5, help="pairs a work")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="keys of every recipe")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    OVERRIDES.extend(options.override)
    with tempfile.TemporaryDirectory() as temporary:
        before = checkout(options.revision, Path(temporary, "before"))
        lines = [
            f"# Speed beside {options.revision}",
            "",
            f"{date.today()}, {described()}. {options.rounds} pairs a work. Seconds and their ratio are of the "
            f"shortest time of every update; the limit is {LIMIT}. Pairs: the geometric mean of their ratios.",
            *(["", f"Every recipe has {', '.join(OVERRIDES)}."] if OVERRIDES else []),
            "",
            "| work | before, s | now, s | now / before | pairs | memory | |",
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
        pair = measured[NOW][-1].seconds / measured[before][-1].seconds
        print(f"{name} | {index + 1} | {pair:.3f}", file=sys.stderr, flush=True)
    then, now = undisturbed(measured[before]), undisturbed(measured[NOW])
    pairs = list(zip(measured[before], measured[NOW], strict=True))
    mean = geometric_mean([after.seconds / earlier.seconds for earlier, after in pairs])
    memory = median(after.memory / earlier.memory for earlier, after in pairs if earlier.memory)
    verdict = "" if now / then <= LIMIT else "SLOWER"
    return f"| {work.title} | {then:.2f} | {now:.2f} | {now / then:.3f} | {mean:.3f} | {memory:.2f} | {verdict} |"


def undisturbed(runs: list[Measure]) -> float:
    """Seconds of a run in which every update took its shortest time."""
    if not runs[0].parts or len({len(run.parts) for run in runs}) > 1:  # no updates, or a run that ends by its loss
        return min(run.seconds for run in runs)
    return sum(map(min, zip(*(run.parts for run in runs), strict=True)))


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
