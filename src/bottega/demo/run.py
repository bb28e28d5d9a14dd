"""All stages of a small language model in minutes: `bottega demo`.

Generates data (`world`), trains a tokenizer, pre-trains a decoder from scratch, fine-tunes it with LoRA on the tasks of
a support desk, aligns it with DPO, evaluates it on unseen letters, and writes a report.
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
from bottega.demo.world import Ticket, World

# Sizes of the data. The whole demo takes minutes on a laptop's CPU.
DOCUMENTS, VALIDATION_DOCUMENTS = 2400, 120
TRAINING_TICKETS, PREFERENCE_PAIRS, TEST_TICKETS = 800, 400, 200
VOCABULARY = 1024

# Rows of the report; fewer than there are, because an answer to each is generated.
REPORT_ROWS = 120

# Longest answer to a question of the demo, in tokens.
ANSWER_TOKENS = 48

# Recipes of the stages. Each starts from the result of an earlier one, in the same folder.
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

# Shows the events of a stage, given its name, while passing them on.
Watch = Callable[[str, Iterator["bottega.Event"]], Iterable["bottega.Event"]]

# Shows a message during work that has no events.
Busy = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class DemoResult:
    """The folder of the demo, its metrics, and a conversation as (question, answer)."""

    folder: Path
    summary: dict[str, Any]
    conversation: list[tuple[str, str]]


def run_demo(folder: Path, *, seed: int = 0, language: str = "en", watch: Watch, busy: Busy) -> DemoResult:
    """Run all stages in `folder`, which must be new, empty, or contain an earlier demo."""
    _clear_folder(folder)
    world = World(seed, language)
    with busy("generating data and training a tokenizer"):
        data = prepare(world, folder)
    train_seconds = 0.0
    for name, document in STAGES.items():
        recipe = bottega.Recipe.parse({"name": f"demo-{name}", "seed": seed, **document}, folder=folder)
        (folder / f"{name}.yaml").write_text(bottega.recipe_yaml(recipe), encoding="utf-8")
        start = time.perf_counter()
        for _ in watch(name, bottega.train(recipe, folder / name)):
            pass
        train_seconds += time.perf_counter() - start
    with busy("evaluating on unseen letters"):
        base, tuned = (
            bottega.load_language_model(folder / "pretrained"),
            bottega.load_language_model(folder / "aligned"),
        )
        summary = {
            **_accuracies(world, base, tuned, data),
            **_preferences(folder / "aligned", data),
            "pretrain_loss": _last_validation(folder / "pretrained").loss,
            "bigram_entropy": bigram_entropy(base, data.texts, data.validation_texts),
            "train_seconds": round(train_seconds, 1),
            "seed": seed,
            "language": language,
        }
        conversation = _conversation(world, tuned)
    with busy("writing the report"):
        report = bottega.report(folder / "tuned", rows=REPORT_ROWS, out=folder / "tuned")
        summary["verdict"] = report.evaluation.verdict.sentence
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return DemoResult(folder, summary, conversation)


@dataclass(frozen=True)
class DemoData:
    """The generated data.

    texts             documents of pre-training
    validation_texts  documents it is validated on
    test_tickets      tickets that share no letter with the training tickets
    shots             an example letter of each topic, for few-shot prompts
    validation_pairs  preference pairs whose prompts are in no training pair
    """

    texts: list[str]
    validation_texts: list[str]
    test_tickets: list[Ticket]
    shots: dict[str, str]
    validation_pairs: list[dict[str, Any]]


def prepare(world: World, folder: Path) -> DemoData:
    """Generate the data, write its files, and train a tokenizer on the documents."""
    data = _write_data(world, folder)
    bottega.train_tokenizer([folder / "documents.jsonl"], VOCABULARY, folder / "tokenizer")
    return data


def _write_data(world: World, folder: Path) -> DemoData:
    """Generate the data and write its files."""
    # The world draws from one random generator: the order of these lines decides the data.
    texts, validation_texts = list(world.documents(DOCUMENTS)), list(world.documents(VALIDATION_DOCUMENTS))
    training_tickets = [world.ticket() for _ in range(TRAINING_TICKETS)]
    training_letters = {ticket.text for ticket in training_tickets}
    # Twice as many as needed: some letters are generated twice, and would leak from the training data.
    candidates = (world.ticket() for _ in range(2 * TEST_TICKETS))
    test_tickets = [ticket for ticket in candidates if ticket.text not in training_letters][:TEST_TICKETS]
    pairs = list(world.preferences([world.ticket() for _ in range(PREFERENCE_PAIRS)]))
    prompts = {pair["instruction"] for pair in pairs}
    candidate_pairs = world.preferences([world.ticket() for _ in range(TEST_TICKETS)])
    validation_pairs = [pair for pair in candidate_pairs if pair["instruction"] not in prompts]
    files = {
        "documents": texts,
        "documents_held_out": validation_texts,
        "tasks": world.tasks(training_tickets),
        "tasks_held_out": world.tasks(test_tickets),
        "pairs": pairs,
        "pairs_held_out": validation_pairs,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return DemoData(
        texts=[row["text"] for row in texts],
        validation_texts=[row["text"] for row in validation_texts],
        test_tickets=test_tickets,
        shots={topic: world.ticket(topic).text for topic in world.topics},
        validation_pairs=validation_pairs,
    )


def _clear_folder(folder: Path) -> None:
    """Delete an earlier demo; a RunError if the folder contains anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    # The first file a demo writes marks its folder, even if it was interrupted.
    if not (folder / "documents.jsonl").exists():
        raise bottega.RunError(
            "the folder contains files that are not from a demo", where=str(folder), fix="choose another --out"
        )
    shutil.rmtree(folder)


def _accuracies(
    world: World, base: bottega.LanguageModel, tuned: bottega.LanguageModel, data: DemoData
) -> dict[str, Any]:
    """Accuracy on topics before tuning, by the best way to prompt, and after; and exact match of the fields."""
    phrases = world.phrases
    letters, topics = [ticket.text for ticket in data.test_tickets], [ticket.topic for ticket in data.test_tickets]
    choices = phrases.CHOICES.format(labels=", ".join(world.topics))
    untuned = ask_untuned(base, letters, phrases.PLAIN, choices, data.shots)
    base_hits = {way: [a == b for a, b in zip(labels, topics, strict=True)] for way, labels in untuned.items()}
    # The base model gets the way to prompt that is best on these very letters: the comparison favours it.
    best = max(base_hits, key=lambda way: sum(base_hits[way]))
    answers = _answer(tuned, [phrases.CLASSIFY.format(ticket=letter) for letter in letters])
    tuned_hits = [a == b for a, b in zip(answers, topics, strict=True)]
    fields = _answer(tuned, [phrases.EXTRACT.format(ticket=letter) for letter in letters])
    return {
        "base_accuracy": _mean(base_hits[best]),
        "base_asked": {way: _mean(hits) for way, hits in base_hits.items()},
        "tuned_accuracy": _mean(tuned_hits),
        "gain_interval": list(bottega.paired_difference(tuned_hits, base_hits[best])),
        "fields_accuracy": _mean(
            [_equal_fields(answer, ticket.fields) for answer, ticket in zip(fields, data.test_tickets, strict=True)]
        ),
    }


def _answer(model: bottega.LanguageModel, questions: Sequence[str]) -> list[str]:
    """The model's greedy answer to each question."""
    turns = [[{"role": "user", "content": question}] for question in questions]
    return [continuation.text for (continuation,) in model.generate(turns, bottega.Sampling(tokens=ANSWER_TOKENS))]


def _equal_fields(answer: str, fields: dict[str, str]) -> bool:
    """Whether an answer is JSON with exactly these fields, in any order."""
    try:
        return bool(json.loads(answer) == fields)
    except ValueError:
        return False


def _preferences(run: Path, data: DemoData) -> dict[str, float]:
    """How often the kind reply is preferred, and how often a preference for the longer one would be right."""
    longer = [len(pair["chosen"]) > len(pair["rejected"]) for pair in data.validation_pairs]
    accuracy = _last_validation(run).metrics["accuracy"]
    return {"preference_accuracy": accuracy, "length_heuristic_accuracy": _mean(longer)}


def bigram_entropy(model: bottega.LanguageModel, texts: Sequence[str], validation_texts: Sequence[str]) -> float:
    """Cross-entropy, in nats per token, of a bigram model on the validation texts: a baseline for pre-training.

    Bigrams are smoothed with add-one unigrams.
    """
    first_counts, second_counts = Counter[int](), Counter[int]()
    pair_counts = Counter[tuple[int, int]]()
    for text in texts:
        ids = _token_ids(model, text)
        first_counts.update(ids[:-1])
        second_counts.update(ids[1:])
        pair_counts.update(itertools.pairwise(ids))
    total, vocabulary = sum(second_counts.values()), len(model.codec.tokenizer)
    nats, count = 0.0, 0
    for text in validation_texts:
        ids = _token_ids(model, text)
        for first, second in itertools.pairwise(ids):
            unigram = (second_counts[second] + 1) / (total + vocabulary)
            nats -= math.log((pair_counts[first, second] + unigram) / (first_counts[first] + 1))
            count += 1
    return nats / count


def _token_ids(model: bottega.LanguageModel, text: str) -> list[int]:
    """A document's token ids as pre-training reads them, with the end token."""
    return [*model.codec.encode_prompt(text), cast(int, model.codec.tokenizer.eos_token_id)]


def _conversation(world: World, model: bottega.LanguageModel) -> list[tuple[str, str]]:
    """Three questions about a new ticket, with the model's answers."""
    ticket = world.ticket()
    phrases = world.phrases
    templates = (phrases.CLASSIFY, phrases.EXTRACT, phrases.ANSWER)
    questions = [template.format(ticket=ticket.text) for template in templates]
    return list(zip(questions, _answer(model, questions), strict=True))


def _last_validation(run: Path) -> bottega.Validated:
    return [event for event in bottega.history(run) if isinstance(event, bottega.Validated)][-1]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
