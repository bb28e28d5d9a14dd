"""Every preference objective on real pairs: validation accuracy over three seeds.

    python benchmarks/preferences.py [--only NAME …] [--seeds 3] [--data FOLDER] [--out FILE]

A pre-trained model of 260,000 weights is trained on 1,100 instructions with a chosen and a rejected answer, a tenth of
them for validation: `recipes/stories_dpo.yaml` with the overrides below. The accuracy is the fraction of pairs whose
chosen answer is preferred; for KTO, which learns from single answers, the implicit-reward accuracy on pairs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from statistics import mean

from machine import describe_machine
from real_data import RECIPES, ROOT, evaluate, run_bottega

# The least accuracy that each objective must reach.
TARGET = 0.75
SETTINGS: dict[str, list[str]] = {
    "dpo": [],
    "orpo": ["objective.kind=orpo", "objective.weight=1.0"],
    "simpo": ["objective.kind=simpo"],
    "cpo": ["objective.kind=cpo"],
    # A preference is two examples, so an epoch has twice the updates.
    "kto": ["objective.kind=kto", "optim.epochs=2"],
    "reward": ["objective.kind=reward"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# Preferences on real data",
        "",
        f"{date.today()}, {describe_machine()}. Validation accuracy by seed; target: at least {TARGET} each.",
        "",
        "| objective | accuracy | mean | | seconds per run |",
        "|---|---|---|---|---|",
    ]
    for kind in options.only:
        runs = [run(kind, seed, options.data) for seed in range(options.seeds)]
        accuracies = [accuracy for accuracy, _ in runs]
        verdict = "reached" if min(accuracies) >= TARGET else "MISSED"
        values = ", ".join(f"{value:.3f}" for value in accuracies)
        seconds = mean(seconds for _, seconds in runs)
        lines.append(f"| {kind} | {values} | {mean(accuracies):.3f} | {verdict} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(kind: str, seed: int, data: Path) -> tuple[float, float]:
    """(final validation accuracy, seconds)."""
    text = (RECIPES / "stories_dpo.yaml").read_text(encoding="utf-8").replace("../../shared/data", str(data.resolve()))
    text = text.replace(", beta: 0.1", "")
    with tempfile.TemporaryDirectory() as name:
        recipe = Path(name, "recipe.yaml")
        recipe.write_text(text, encoding="utf-8")
        run_bottega("train", str(recipe), f"seed={seed}", *SETTINGS[kind], "--out", f"{name}/run")
        events = [json.loads(line) for line in Path(name, "run", "events.jsonl").read_text().splitlines()]
        seconds = events[-1]["time"] - events[0]["time"]
        if kind == "kto":
            return evaluate(Path(name, "run"), "--rows", "1000")["implicit_reward_accuracy"]["run"], seconds
    validated = [event for event in events if event["type"] == "validated"]
    return validated[-1]["metrics"]["accuracy"], seconds


if __name__ == "__main__":
    main()
