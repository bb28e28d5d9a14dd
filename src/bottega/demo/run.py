"""The whole life of a small language model in minutes: `bottega demo`.

Invents a world, trains a tokenizer on it, pre-trains a decoder from nothing, fine-tunes it with LoRA on a support
desk's tasks, aligns it with DPO, measures what that was worth on letters it never saw, and ends with a report.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import bottega
from bottega.demo.untuned import ask_untuned
from bottega.demo.world import World

DOCUMENTS, HELD_OUT = 2400, 120
TICKETS, PAIRS, TESTED = 800, 400, 200
VOCABULARY = 1024
REPORTED = 120
"""Rows that the report is about: the answers to each are written out."""

PRETRAIN = {
    "model": {
        "shape": {
            "model_type": "llama",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
        },
        "tokenizer": "tokenizer",
    },
    "data": {"train": "documents.jsonl", "validation": "documents_held_out.jsonl", "max_length": 512},
    "objective": {"kind": "causal"},
    "optim": {"optimizer": "muon", "lr": 5e-3, "steps": 300, "update_tokens": 4096, "warmup": 20},
    "evaluate": {"every": 75},
}
TUNE = {
    "model": {"base": "pretrained"},
    "adapter": {"rank": 32, "alpha": 64},
    "data": {"train": "tasks.jsonl", "validation": "tasks_held_out.jsonl", "max_length": 512},
    "objective": {"kind": "sft"},
    "optim": {"lr": 2e-3, "epochs": 2.6, "examples": 32, "warmup": 10},
    "evaluate": {"every": 75, "rows": 120},
}
ALIGN = {
    "model": {"base": "pretrained"},
    "adapter": {"from": "tuned"},
    "data": {"train": "pairs.jsonl", "validation": "pairs_held_out.jsonl", "max_length": 512},
    "objective": {"kind": "dpo"},
    "optim": {"lr": 1e-4, "epochs": 1, "examples": 16, "warmup": 5},
    "evaluate": {"every": 10},
}
STAGES = {"pretrained": PRETRAIN, "tuned": TUNE, "aligned": ALIGN}

Watch = Callable[[str, Iterator["bottega.Event"]], Iterable["bottega.Event"]]
"""Shows a stage's events, by its name, while passing them on."""

Busy = Callable[[str], AbstractContextManager[Any]]
"""A sign of life, with these words, while something goes on that has no events."""


@dataclass(frozen=True)
class Demo:
    """What the demo leaves: the folder, its summary, and a short conversation."""

    folder: Path
    summary: dict[str, Any]
    conversation: list[tuple[str, str]]


def demo(folder: Path, *, seed: int = 0, language: str = "en", watch: Watch, busy: Busy) -> Demo:
    """Run it all in `folder`, which must be new or hold an earlier demo."""
    _clear(folder)
    world = World(seed, language)
    with busy("inventing a world, and training a tokenizer on it"):
        data = _write_data(world, folder)
        bottega.train_tokenizer([folder / "documents.jsonl"], VOCABULARY, folder / "tokenizer")
    seconds = 0.0
    for name, document in STAGES.items():
        recipe = bottega.Recipe.parse({"name": f"demo-{name}", "seed": seed, **document}, folder=folder)
        (folder / f"{name}.yaml").write_text(bottega.recipe_yaml(recipe), encoding="utf-8")
        start = time.perf_counter()
        for _ in watch(name, bottega.train(recipe, folder / name)):
            pass
        seconds += time.perf_counter() - start
    with busy("measuring on letters it never saw"):
        base, tuned = bottega.load(folder / "pretrained"), bottega.load(folder / "aligned")
        summary = {
            **_accuracies(world, base, tuned, data),
            **_preferences(folder / "aligned", data),
            "pretrain_loss": _last_validation(folder / "pretrained").loss,
            "bigram_entropy": bigram_entropy(base, data.texts, data.held_out),
            "train_seconds": round(seconds, 1),
            "seed": seed,
            "language": language,
        }
        conversation = _conversation(world, tuned)
    with busy("writing the report"):
        report = bottega.report(folder / "tuned", rows=REPORTED, out=folder / "tuned")
        summary["verdict"] = report.evaluation.verdict.sentence
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return Demo(folder, summary, conversation)


@dataclass(frozen=True)
class _Data:
    texts: list[str]
    held_out: list[str]
    tested: list[Any]
    shots: dict[str, str]
    pairs: list[dict[str, Any]]


def _write_data(world: World, folder: Path) -> _Data:
    """Write every file of the demo; what is held out shares no letter with what is trained on."""
    texts, held_out = list(world.documents(DOCUMENTS)), list(world.documents(HELD_OUT))
    trained = [world.ticket() for _ in range(TICKETS)]
    known = {ticket.text for ticket in trained}
    tested = [ticket for ticket in (world.ticket() for _ in range(2 * TESTED)) if ticket.text not in known][:TESTED]
    pairs = list(world.preferences([world.ticket() for _ in range(PAIRS)]))
    asked = {pair["instruction"] for pair in pairs}
    held_pairs = [
        pair for pair in world.preferences([world.ticket() for _ in range(TESTED)]) if pair["instruction"] not in asked
    ]
    files = {
        "documents": texts,
        "documents_held_out": held_out,
        "tasks": world.tasks(trained),
        "tasks_held_out": world.tasks(tested),
        "pairs": pairs,
        "pairs_held_out": held_pairs,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    shots = {topic: world.ticket(topic).text for topic in world.topics}
    return _Data([row["text"] for row in texts], [row["text"] for row in held_out], tested, shots, held_pairs)


def _clear(folder: Path) -> None:
    """Remove an earlier demo; refuse to touch anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "documents.jsonl").exists():
        raise bottega.RunError("is not an empty folder, nor a demo's", where=str(folder), fix="choose another --out")
    shutil.rmtree(folder)


def _accuracies(world: World, base: bottega.LanguageModel, tuned: bottega.LanguageModel, data: _Data) -> dict[str, Any]:
    """Topics found by the untuned model, asked in the best of several ways, and by the tuned one; the gain."""
    phrases = world.phrases
    letters, topics = [ticket.text for ticket in data.tested], [ticket.topic for ticket in data.tested]
    choices = phrases.CHOICES.format(labels=", ".join(world.topics))
    untuned = ask_untuned(base, letters, phrases.PLAIN, choices, data.shots)
    right = {way: [a == b for a, b in zip(found, topics, strict=True)] for way, found in untuned.items()}
    best = max(right, key=lambda way: sum(right[way]))
    found = _asked(tuned, [phrases.CLASSIFY.format(ticket=letter) for letter in letters])
    now = [a == b for a, b in zip(found, topics, strict=True)]
    fields = _asked(tuned, [phrases.EXTRACT.format(ticket=letter) for letter in letters])
    return {
        "base_accuracy": _mean(right[best]),
        "base_asked": {way: _mean(hits) for way, hits in right.items()},
        "tuned_accuracy": _mean(now),
        "gain_interval": list(bottega.paired_difference(now, right[best])),
        "fields_accuracy": _mean([_same(a, t.fields) for a, t in zip(fields, data.tested, strict=True)]),
    }


def _asked(model: bottega.LanguageModel, questions: Sequence[str]) -> list[str]:
    turns = [[{"role": "user", "content": question}] for question in questions]
    return [found[0].text for found in model.generate(turns, bottega.Sampling(tokens=48))]


def _same(written: str, fields: dict[str, str]) -> bool:
    try:
        return bool(json.loads(written) == fields)
    except ValueError:
        return False


def _preferences(run: Path, data: _Data) -> dict[str, float]:
    """How often the kind reply is preferred, and how often it is merely the longer one."""
    longer = [len(pair["chosen"]) > len(pair["rejected"]) for pair in data.pairs]
    accuracy = _last_validation(run).metrics["accuracy"]
    return {"preference_accuracy": accuracy, "length_heuristic_accuracy": _mean(longer)}


def bigram_entropy(model: bottega.LanguageModel, texts: Sequence[str], held_out: Sequence[str]) -> float:
    """Nats a token of the held-out texts under the bigrams of the others, smoothed with their unigrams."""
    before, after = Counter[int](), Counter[int]()
    pairs = Counter[tuple[int, int]]()
    for text in texts:
        ids = _tokens(model, text)
        before.update(ids[:-1])
        after.update(ids[1:])
        pairs.update(itertools.pairwise(ids))
    total, vocabulary = sum(after.values()), len(model.codec.tokenizer)
    nats, count = 0.0, 0
    for text in held_out:
        ids = _tokens(model, text)
        for one, other in itertools.pairwise(ids):
            unigram = (after[other] + 1) / (total + vocabulary)
            nats -= math.log((pairs[one, other] + unigram) / (before[one] + 1))
            count += 1
    return nats / count


def _tokens(model: bottega.LanguageModel, text: str) -> list[int]:
    """A document's tokens as pre-training reads them."""
    return [*model.codec.encode_prompt(text), cast(int, model.codec.tokenizer.eos_token_id)]


def _conversation(world: World, model: bottega.LanguageModel) -> list[tuple[str, str]]:
    ticket = world.ticket()
    phrases = world.phrases
    questions = [asked.format(ticket=ticket.text) for asked in (phrases.CLASSIFY, phrases.EXTRACT, phrases.ANSWER)]
    return list(zip(questions, _asked(model, questions), strict=True))


def _last_validation(run: Path) -> bottega.Validated:
    return [event for event in bottega.history(run) if isinstance(event, bottega.Validated)][-1]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
