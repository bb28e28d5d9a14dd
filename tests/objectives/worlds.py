"""Worlds to test objectives in: every objective in the folder × every architecture, on a few real rows."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import transformers

from bottega import adapters, objectives
from bottega.batch import Batch, Example, Loss, count_units, join_batches
from bottega.models import heads
from bottega.models.scorer import Fit, Scorer
from bottega.models.scorer_setup import add_adapter, fit_model
from bottega.objectives import Objective, OnPolicy, RewardedAnswer, Statistic
from bottega.packing import pack
from bottega.records import (
    Chat,
    Compared,
    Entity,
    Labelled,
    Message,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
)
from bottega.tokenization.builtin_templates import set_template
from bottega.tokenization.codec import Codec
from bottega.training.needs import statistics
from making import WORDS, make_tokenizer, sharpen, tiny_config

DECODERS = ("llama", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2", "mixtral", "olmo2", "granite")
ENCODERS = ("bert",)
ENCODER_DECODERS = ("t5",)
UNPACKABLE = ("bloom", "mamba")

# Architectures that transformers gives no sequence classification.
NO_CLASSIFIER = ("granite", "mamba")

# Architectures that transformers gives no token classification.
NO_TAGGER = ("olmo2", "granite", "gemma3_text", "mamba")


def fitting(kind: str, among: tuple[str, ...] = DECODERS + ENCODERS + ENCODER_DECODERS) -> list[str]:
    """The architectures that have the head this objective needs."""
    if kind == "span":
        return [model for model in among if model in ENCODER_DECODERS]
    if kind == "causal" or objectives.load(kind).head != "language":
        among = tuple(model for model in among if model not in ENCODER_DECODERS)
    without = {"language": ENCODERS, "masked": DECODERS + UNPACKABLE, "sequence": NO_CLASSIFIER, "token": NO_TAGGER}
    return [model for model in among if model not in without.get(objectives.load(kind).head, ())]


# Code as a user would bring it.
OWN = Path(__file__).parent / "own"

# Options worth a world of their own, the first of each with every architecture, the others with one.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sft": [{"weighting": "token"}, {"weighting": "example", "label_smoothing": 0.2}],
    "causal": [{}, {"label_smoothing": 0.2}],
    "dpo": [
        {},
        {"label_smoothing": 0.2, "normalised": True},
        {"form": "robust", "label_smoothing": 0.2},
        {"form": "ipo"},
        {"form": "ipo", "normalised": True},
    ],
    "orpo": [{}, {"prompt": True}],
    "cpo": [{}, {"likelihood": "token", "label_smoothing": 0.2}],
    "kto": [{}, {"desirable": 1.5, "undesirable": 0.5, "beta": 0.5}],
    "reward": [{}, {"margin": 0.7, "centering": 0.1}],
    "classify": [
        {},
        {"label_smoothing": 0.2, "weights": {"a": 3.0}},
        {"weights": "balanced"},
        {"multi_label": True, "label_smoothing": 0.2, "weights": {"b": 0.5}},
    ],
    "tag": [{}, {"scheme": "BIOES", "label_smoothing": 0.2}],
    "regress": [{}, {"error": "absolute"}, {"error": "huber"}],
    "masked": [{}, {"whole_words": True, "share": 0.4, "label_smoothing": 0.2}],
    "contrastive": [
        {},
        {"pooling": "last", "temperature": 0.2, "symmetric": True},
        {"rows": "compared"},
        {"rows": "compared", "compare": "margin", "margin": 1.5},
        {"file": str(OWN / "own_module.py"), "options": {"margin": 2.0}},
    ],
    "grpo": [
        {"rewards": [{"kind": "length", "free": 0, "most": 9}, {"kind": "pattern", "pattern": "[a-m]"}]}
        | {"group": 3, "tokens": 8, "passes": 3},
        {"rewards": "exact", "group": 3, "tokens": 9, "scale": "none", "weighting": "answer", "ratio": "answer"}
        | {"beta": 0.3},
        {"rewards": "exact", "scale": "update", "weighting": "constant", "tokens": 9, "temperature": 0.6}
        | {
            "group": 4,
            "passes": 2,
            "clip": 0.05,
            "clip_high": 0.1,
            "unfinished": "skip",
            "beta": 0.1,
            "unbiased": True,
        },
    ],
    "span": [{}, {"share": 0.5, "length": 1.5, "label_smoothing": 0.2}],
    "custom": [{"file": str(OWN / "own_loss.py"), "sharpness": 2.0}],
}

CASES = [
    (kind, options, model)
    for kind in objectives.kinds()
    for place, options in enumerate(OPTIONS.get(kind, [{}]))
    for model in (fitting(kind) if place == 0 else fitting(kind)[:1])
]
SYSTEM = Message("system", "the dog and the cat sat under the tree and it was very happy then")


def shake(model: Any) -> None:
    """Change trained weights at random, those that start at zero too."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)


@dataclass
class World:
    """An objective with a model, a frozen reference of the same kind, and encoded examples."""

    objective: Objective
    model: Any
    reference: Any
    examples: list[Example]
    fit: Fit
    tolerance: float
    adapted: Any = None

    @cached_property
    def whole(self) -> tuple[float, dict[str, torch.Tensor]]:
        """(loss, gradients) of an update in one micro-batch."""
        return self.gradients([self.complete(pack(self.examples), self.fit)])

    @cached_property
    def shared(self) -> tuple[float, dict[str, torch.Tensor]]:
        """The same with every beginning shared that can be."""
        return self.gradients([self.complete(pack(self.examples, min_shared=2), self.fit)])

    def scorer(self, fit: Fit | None = None) -> Scorer:
        scorer = Scorer(self.model, self.objective.head, fit or self.fit)
        scorer.adapted = self.adapted
        return scorer

    def complete(self, batch: Batch, fit: Fit) -> Batch:
        if not self.objective.compares_with_reference:
            return batch
        with torch.no_grad():
            return batch.with_columns(
                reference=Scorer(self.reference, "language", fit)(
                    batch, frozenset({"logp"}), temperature=self.objective.logit_temperature
                )["logp"]
            )

    def informed(self, batches: list[Batch], scorer: Scorer) -> list[Batch]:
        """The batches of one update of all examples, with what the objective must know of it."""
        needed = [need for need in self.objective.needs if isinstance(need, Statistic)]
        if not needed:
            return batches
        (need,) = needed
        probed = [self.complete(pack([one], share=False), scorer.fit) for one in need.examples(self.examples, 100)]
        with torch.no_grad():
            found = statistics(need, probed, lambda batch: scorer(batch, self.objective.outputs))
        return [replace(batch, statistics=found) for batch in batches]

    def backward(self, scores: dict[str, torch.Tensor], batch: Batch, counts: dict[str, float]) -> float:
        loss: Loss = self.objective.loss(scores, batch)
        share = loss.total(counts)
        share.backward()
        return float(share.detach())

    def gradients(self, batches: list[Batch], fit: Fit | None = None) -> tuple[float, dict[str, torch.Tensor]]:
        """(loss, gradients) of one update made of these micro-batches."""
        fit = fit or self.fit
        scorer = self.scorer(fit)
        counts, total, found = count_units(batches), 0.0, []
        self.model.zero_grad()
        for batch in self.informed(batches, scorer):
            how = {"weighted": self.objective.weighted, "smoothing": self.objective.smoothing}
            how["temperature"] = self.objective.logit_temperature
            found.append((scorer(batch, self.objective.outputs, **how), batch))
            if not self.objective.joint:
                total += self.backward(*found.pop(), counts)
        if found:
            scores = {name: torch.cat([one[name] for one, _ in found]) for name in found[0][0]}
            total = self.backward(scores, join_batches(batches), counts)
        return total, {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}


def record(kind: type, draw: random.Random, index: int) -> Record:
    """A row of this type; prompts repeat, so that there are prefixes to share."""

    def words(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    prompt = (SYSTEM, Message("user", f"say {index % 2} {WORDS[index % 3]}"))
    where = f"rows line {index + 1}"
    if kind is Text:
        return Text(where, " ".join([SYSTEM.content, words(12)]))
    if kind is Prompted:
        return Prompted(where, SYSTEM.content, " " + words(9))
    if kind is Chat:
        return Chat(where, (*prompt, Message("assistant", words(9), draw.choice([1.0, 0.5]))))
    if kind is Preference:
        return Preference(where, prompt, words(9), words(8) + " so")
    if kind is Unpaired:
        return Unpaired(where, prompt, words(9), index % 3 > 0)
    if kind is Labelled:
        return Labelled(where, words(15), draw.choice("abc"))
    if kind is Multilabelled:
        return Multilabelled(where, words(15), tuple(label for label in "abc" if draw.random() < 0.5))
    if kind is Tagged:
        text = words(15)
        starts = [0, *(place + 1 for place, character in enumerate(text) if character == " ")]
        ends = [*(start - 1 for start in starts[1:]), len(text)]
        chosen = sorted(draw.sample(range(len(starts)), min(2, len(starts))))
        return Tagged(where, text, tuple(Entity(starts[one], ends[one], draw.choice("xy")) for one in chosen))
    if kind is Paired:
        negatives = tuple(words(6) + " so" for _ in range(index % 3))
        # Some positives come twice, and some rows are about the same.
        return Paired(where, words(8), WORDS[index % 5], negatives, None if index % 2 else f"about {index % 4}")
    if kind is Compared:
        return Compared(where, words(8), words(8), round(draw.random(), 2))
    if kind is Posed:
        return Posed(where, prompt, words(4))
    raise NotImplementedError(f"no rows of type {kind.__name__} are made here yet")


def records(objective: Objective, count: int, seed: int = 0) -> list[Record]:
    draw = random.Random(seed)
    kind = Multilabelled if getattr(objective, "multi_label", False) else objective.reads[0]
    made = [record(kind, draw, index) for index in range(count)]
    if objective.kind == "regress":
        return [replace(one, label=f"{draw.gauss(0, 2):.3f}") for one in made if isinstance(one, Labelled)]
    return made


def answered(objective: OnPolicy, posed: list[Example]) -> list[Example]:
    """What is learned from answers drawn at random, and rewards."""
    draw = np.random.default_rng(0)

    def answer() -> RewardedAnswer:
        return RewardedAnswer(draw.integers(5, 250, draw.integers(1, 9)), draw.normal(), bool(draw.random() < 0.7))

    learned = objective.training_examples(posed, [[answer() for _ in range(objective.group)] for _ in posed])
    if objective.passes == 1:
        return learned
    # As if the policy had moved since they were written.
    rows = [example.rows[0] for example in learned]
    marked = [row.with_columns(old=-6 + 2 * draw.normal(size=len(row.at))) for row in rows]
    return [Example(example.id, (row,)) for example, row in zip(learned, marked, strict=True)]


@cache
def tokenizer(spans: bool = False) -> Any:
    return transformers.AutoTokenizer.from_pretrained(make_tokenizer(Path(mkdtemp()), spans=spans))


def objective_and_rows(kind: str, options: dict[str, Any]) -> tuple[Objective, list[Record]]:
    compared = options.pop("rows", "") == "compared"
    objective = objectives.build_objective({"kind": kind, **(options or OPTIONS.get(kind, [{}])[0])})
    draw = random.Random(0)
    return objective, [record(Compared, draw, index) for index in range(7)] if compared else records(objective, 7)


# How models are computed: proved once for each architecture and head, on which alone it depends.
FITS: dict[tuple[str, str], Fit] = {}


@cache
def world(kind: str, options: str, model: str, adapter: str = "") -> World:
    """adapter  options of one that is put on the model, as JSON; its weights are random, as if it had been trained"""
    objective, rows = objective_and_rows(kind, json.loads(options))
    labels = objective.count_labels(rows)
    tok = tokenizer(spans=kind == "span")
    set_template(tok, None)
    start = 2 if model in ENCODER_DECODERS else None
    codec = Codec(
        tok, max_length=100, too_long="error", both_ways=model in ENCODERS, labels=labels, decoder_start=start
    )
    # Mixture-of-experts kernels know no float64; transformers' norms and eager softmax round to float32 within it.
    dtype, tolerance = (torch.float32, 2e-4) if model == "mixtral" else (torch.float64, 2e-6)

    def build(seed: int) -> Any:
        torch.manual_seed(seed)
        more = {"num_labels": len(labels)} if labels else {}
        config = tiny_config(model, **more)
        auto = heads.load(objective.head).auto_class(config)
        return sharpen(auto.from_config(config, dtype=torch.float32)).to(dtype).eval()

    made, other = build(0), build(1)
    fit = FITS.get((model, objective.head))
    fit = FITS[model, objective.head] = fit_model(made, objective.head, fit).fit
    fit_model(other, objective.head, fit)
    scorer = Scorer(made, objective.head, fit)
    if adapter:
        add_adapter(scorer, adapters.build(json.loads(adapter)), new=(), reference=False)
        fit = scorer.fit
        shake(made)
    examples = [Example(row.where, parts) for row in rows for parts in objective.rows(row, codec)]
    if isinstance(objective, OnPolicy):
        examples = answered(objective, examples[:4])
    return World(objective, made, other, examples, fit, tolerance, scorer.adapted)
