"""Six runs on real data, each ended by its report; the beginnings of the reports become a page of the documentation.

    python benchmarks/reports.py [--only NAME …] [--data FOLDER] [--out docs/reports.md]

Trained and measured through the command line, as a user would; what the page says, the reports say.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from machine import described
from real_data import ROOT, bottega, run


@dataclass(frozen=True)
class Told:
    """A run, in words, and what changes its recipe and its exam."""

    title: str
    about: str
    recipe: str
    changed: tuple[str, ...] = ()
    data: str | None = None
    rows: int = 500


RUNS = (
    Told(
        "banking77 with an encoder", "MiniLM, 22.7 M weights, on 77 intents of a bank's customers.", "banking_intents"
    ),
    Told(
        "banking77 with a small decoder",
        "The same rows for a decoder of 260,000 weights that has read stories.",
        "banking_intents",
        ("model.base={data}/stories260K_hf", "optim.lr=3e-3", "model.dtype=float32"),
    ),
    Told(
        "Entities of WNUT17",
        "MiniLM marks rare names in tweets and posts; measured on the test file, which has other names.",
        "wnut_entities",
        data="wnut17/emerging.test.annotated",
        rows=2000,
    ),
    Told(
        "Summaries of SciTLDR",
        "A decoder of 2.6 M weights learns from nothing to say in a sentence what a paper is about.",
        "scitldr_summaries",
        rows=200,
    ),
    Told("GSM8K", "School mathematics for a model of 260,000 weights.", "gsm8k_answers", rows=200),
    Told(
        "1,100 instructions",
        "The same small model learns to answer instructions, with LoRA.",
        "stories_sft",
    ),
)

HEAD = """\
# Reports of real runs

What `bottega evaluate` said at the end of six runs on real data: the beginning of each report, as it was written. They
are small models on two cores, and the verdicts are what they are: a run that does not beat the nearest row that is
known is told so. Made by `python benchmarks/reports.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", default=list(range(len(RUNS))), help="numbers, from 0")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reports.md")
    options = parser.parse_args()
    parts = [HEAD, f"{date.today()}, {described()}.\n"]
    for number in options.only:
        parts.append(told(RUNS[number], options.data))
        print(parts[-1], flush=True)
    options.out.write_text("\n".join(parts), encoding="utf-8")


def told(one: Told, data: Path) -> str:
    """The beginning of a run's report, under its title."""
    with tempfile.TemporaryDirectory() as name:
        changed = [change.format(data=data.resolve()) for change in one.changed]
        run(one.recipe, data, Path(name), *changed)
        given = [] if one.data is None else ["--data", str(data / one.data)]
        out = Path(name, "report")
        bottega("evaluate", f"{name}/{one.recipe}", *given, "--rows", str(one.rows), "--report", str(out))
        text = (out / "report.md").read_text(encoding="utf-8")
    body = text.partition("\n")[2].partition("\n## The run")[0].replace("\n## ", "\n### ").strip()
    return f"## {one.title}\n\n{one.about}\n\n{body}\n"


if __name__ == "__main__":
    main()
