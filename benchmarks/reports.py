"""Train six recipes on real data and evaluate them; the beginnings of their reports become a page of the documentation.

    python benchmarks/reports.py [--only INDEX …] [--data FOLDER] [--out docs/reports.md]

Everything runs through the command line, as for a user. The page quotes the reports unedited.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from machine import describe_machine
from real_data import ROOT, run_bottega, train_recipe


@dataclass(frozen=True)
class ReportedRun:
    """A run of the page.

    recipe  name of a file in recipes/, without its suffix
    data    file with the evaluation rows; None for the run's validation rows
    rows    maximum number of evaluation rows
    """

    title: str
    description: str
    recipe: str
    overrides: tuple[str, ...] = ()
    data: str | None = None
    rows: int = 500


RUNS = (
    ReportedRun(
        "banking77 with an encoder", "MiniLM, 22.7 M weights, on 77 intents of a bank's customers.", "banking_intents"
    ),
    ReportedRun(
        "banking77 with a small decoder",
        "The same rows, with a decoder of 260,000 weights pre-trained on stories.",
        "banking_intents",
        ("model.base={data}/stories260K_hf", "optim.lr=3e-3", "model.dtype=float32"),
    ),
    ReportedRun(
        "Entities of WNUT17",
        "MiniLM tags rare names in tweets and posts; evaluated on the test file, which has other names.",
        "wnut_entities",
        data="wnut17/emerging.test.annotated",
        rows=2000,
    ),
    ReportedRun(
        "Summaries of SciTLDR",
        "A decoder of 2.6 M weights, trained from scratch to summarize a paper in a sentence.",
        "scitldr_summaries",
        rows=200,
    ),
    ReportedRun("GSM8K", "Grade-school mathematics, with a model of 260,000 weights.", "gsm8k_answers", rows=200),
    ReportedRun(
        "1,100 instructions",
        "The same small model, fine-tuned on instructions with LoRA.",
        "stories_sft",
    ),
)

HEAD = """\
# Reports of real runs

The beginnings of the reports that `bottega evaluate` wrote for six runs on real data, on the date and with the versions
below. The models are small and were trained on two CPU cores. The verdicts are unedited: a run that is no better than
copying the nearest training row is reported as such. Made by `python benchmarks/reports.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", default=list(range(len(RUNS))), help="indices of runs, from 0")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reports.md")
    options = parser.parse_args()
    parts = [HEAD, f"{date.today()}, {describe_machine()}.\n"]
    for index in options.only:
        parts.append(beginning_of_report(RUNS[index], options.data))
        print(parts[-1], flush=True)
    options.out.write_text("\n".join(parts), encoding="utf-8")


def beginning_of_report(run: ReportedRun, data: Path) -> str:
    """Train and evaluate a run; returns the first part of its report, below the run's title."""
    with tempfile.TemporaryDirectory() as name:
        overrides = [override.format(data=data.resolve()) for override in run.overrides]
        train_recipe(run.recipe, data, Path(name), *overrides)
        evaluation_rows = [] if run.data is None else ["--data", str(data / run.data)]
        out = Path(name, "report")
        options = [*evaluation_rows, "--rows", str(run.rows), "--report", str(out)]
        run_bottega("evaluate", f"{name}/{run.recipe}", *options)
        text = (out / "report.md").read_text(encoding="utf-8")
    # Without the report's own title, and without the facts that follow the results.
    body = text.partition("\n")[2].partition("\n## The run")[0].replace("\n## ", "\n### ").strip()
    return f"## {run.title}\n\n{run.description}\n\n{body}\n"


if __name__ == "__main__":
    main()
