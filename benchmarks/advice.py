"""Compare the predictions of `bottega advise` with the results of fine-tuning on all rows.

    python benchmarks/advice.py [--only INDEX …] [--data FOLDER] [--out FILE]

The run on all rows is trained like the parts: until the validation loss stops improving, for at most twice the
predicted number of updates, or three passes if the parts did not converge. It is evaluated on the same held-out rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from machine import describe_machine
from real_data import ROOT, minilm_folder

import bottega
from bottega.data.sampler import DEFAULT_EXAMPLES
from bottega.planning.advise import Counsel
from bottega.planning.study import Study, TrainedPart
from bottega.progress import ignore_status

ENCODER = str(minilm_folder())
DECODER = "stories260K_hf"


@dataclass(frozen=True)
class Case:
    """Rows, and a model to fine-tune on them."""

    name: str
    rows: str
    model: str
    objective: str | None = None
    mapping: dict[str, str] = field(default_factory=dict)


BANKING = ("banking77/train.csv", "classify", {"label": "category"})

CASES = (
    Case("1,100 instructions, a decoder of 260,000", "rasbt_instruct_1100/instruction-data.json", DECODER),
    Case("SciTLDR, the same", "scitldr_a/train.jsonl", DECODER),
    Case("GSM8K, the same", "gsm8k/train.jsonl", DECODER),
    Case("banking77, the same", BANKING[0], DECODER, *BANKING[1:]),
    Case("WNUT17, MiniLM", "wnut17/wnut17train.conll", ENCODER),
    Case("banking77, MiniLM", BANKING[0], ENCODER, *BANKING[1:]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", default=list(range(len(CASES))), help="indices of cases, from 0")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = f"# Predictions of bottega advise and the results\n\n{date.today()}, {describe_machine()}.\n\n"
    text += "| rows and model | metric | parts | predicted for all rows | result | advice | time of advice, of run |\n"
    text += "|---|---|---|---|---|---|---|\n"
    hits = []
    for index in options.only:
        line, is_within = compare(CASES[index], options.data)
        text, hits = text + line, [*hits, is_within]
        print(line, end="", flush=True)
    text += f"\n{sum(hits)} of {len(hits)} results are within the predicted interval.\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def compare(case: Case, data: Path) -> tuple[str, bool]:
    """(the case's row of the table, whether the result is within the predicted interval)."""
    model = str(data / case.model) if case.model == DECODER else case.model
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name) / "study", time.perf_counter()
        counsel = bottega.advise(data / case.rows, model, objective=case.objective, mapping=case.mapping, out=folder)
        seconds = time.perf_counter() - started
        study = Study(folder, counsel.kind, model, 0, ignore_status)
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [("train.jsonl", json.loads(line)) for line in lines]
        passes = 2 * counsel.expected[0].passes if all(point.done for point in counsel.points) else 3.0
        trained = study.train_part(rows, round(passes * len(rows) / DEFAULT_EXAMPLES))
    return _format_row(case, counsel, trained, seconds)


def _format_row(case: Case, counsel: Counsel, trained: TrainedPart, seconds: float) -> tuple[str, bool]:
    result = next(estimate.run for estimate in trained.evaluation.estimates if estimate.metric == counsel.metric)
    predicted = counsel.expected[0]
    is_within = predicted.low <= result <= predicted.high
    parts = ", ".join(
        f"{point.value:.3g} ({point.rows}{'' if point.done else ', unfinished'})" for point in counsel.points
    )
    return (
        f"| {case.name} | {counsel.metric} | {parts} "
        f"| {predicted.value:.3g} ({predicted.low:.3g} to {predicted.high:.3g}), {predicted.rows} rows "
        f"| {result:.3g}{'' if is_within else ', NOT within'} | {counsel.sentence} "
        f"| {seconds:.0f} s, {trained.seconds:.0f} s |\n"
    ), is_within


if __name__ == "__main__":
    main()
