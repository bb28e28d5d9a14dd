"""What `bottega advise` foresees, beside what tuning on all the rows then brings.

    python benchmarks/advice.py [--only NAME …] [--data FOLDER] [--out FILE]

The run on all rows is tuned as the parts are, until it learns no more or has had twice the updates foreseen, or three
passes where the parts were not learned to the end, and asked about the same held-out rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from machine import described
from real_data import ROOT, minilm

import bottega
from bottega.data.sampler import DEFAULT_EXAMPLES
from bottega.planning.advise import Counsel
from bottega.planning.study import Study, TrainedPart
from bottega.progress import ignore_status

ENCODER = str(minilm())
DECODER = "stories260K_hf"


@dataclass(frozen=True)
class Case:
    """Rows, and a model that might be tuned on them."""

    name: str
    rows: str
    model: str
    objective: str | None = None
    mapping: dict[str, str] = field(default_factory=dict)


LABELLED = ("banking77/train.csv", "classify", {"label": "category"})

CASES = (
    Case("1,100 instructions, a decoder of 260,000", "rasbt_instruct_1100/instruction-data.json", DECODER),
    Case("SciTLDR, the same", "scitldr_a/train.jsonl", DECODER),
    Case("GSM8K, the same", "gsm8k/train.jsonl", DECODER),
    Case("banking77, the same", LABELLED[0], DECODER, *LABELLED[1:]),
    Case("WNUT17, MiniLM", "wnut17/wnut17train.conll", ENCODER),
    Case("banking77, MiniLM", LABELLED[0], ENCODER, *LABELLED[1:]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", default=list(range(len(CASES))), help="numbers, from 0")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = f"# Advice beside what came\n\n{date.today()}, {described()}.\n\n"
    text += "| rows and model | number | parts | foreseen of all | came | advice | its time, and that of the run |\n"
    text += "|---|---|---|---|---|---|---|\n"
    kept = []
    for number in options.only:
        line, within = held(CASES[number], options.data)
        text, kept = text + line, [*kept, within]
        print(line, end="", flush=True)
    text += f"\nWhat came lay within what was foreseen in {sum(kept)} of {len(kept)}.\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def held(case: Case, data: Path) -> tuple[str, bool]:
    """A row of the table, and whether what came lay within what was foreseen."""
    model = str(data / case.model) if case.model == DECODER else case.model
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name) / "study", time.perf_counter()
        counsel = bottega.advise(data / case.rows, model, objective=case.objective, mapping=case.mapping, out=folder)
        advised = time.perf_counter() - begun
        study = Study(folder, counsel.kind, model, 0, ignore_status)
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [("train.jsonl", json.loads(line)) for line in lines]
        passes = 2 * counsel.expected[0].passes if all(point.done for point in counsel.points) else 3.0
        found = study.train_part(rows, round(passes * len(rows) / DEFAULT_EXAMPLES))
    return _line(case, counsel, found, advised)


def _line(case: Case, counsel: Counsel, found: TrainedPart, advised: float) -> tuple[str, bool]:
    came = next(one.run for one in found.evaluation.estimates if one.metric == counsel.metric)
    all_ = counsel.expected[0]
    within = all_.low <= came <= all_.high
    parts = ", ".join(
        f"{point.value:.3g} ({point.rows}{'' if point.done else ', unfinished'})" for point in counsel.points
    )
    return (
        f"| {case.name} | {counsel.metric} | {parts} | {all_.value:.3g} ({all_.low:.3g} to {all_.high:.3g}), "
        f"{all_.rows} rows | {came:.3g}{'' if within else ', NOT within'} | {counsel.sentence} | {advised:.0f} s, "
        f"{found.seconds:.0f} s |\n"
    ), within


if __name__ == "__main__":
    main()
