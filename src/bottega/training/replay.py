"""Replay against forgetting: general rows trained on beside the run's own, and a KL anchor to the initial model.

Replay: Robins 1995. Anchor: Li and Hoiem 2016 (Learning without Forgetting, arXiv 1606.09282), here with the initial
model's whole distribution. A part of the rows is held out, and its loss shows what is being forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bottega import objectives
from bottega.batch import Batch, Example, Loss, MetricMeans, Term, Unit, count_units
from bottega.data.example_cache import ExampleCache
from bottega.data.reader import read_records
from bottega.data.sampler import DEFAULT_EXAMPLES, permutation
from bottega.engine.engine import Engine
from bottega.errors import DataError
from bottega.models import heads
from bottega.models.language_head import get_language_head, kl_divergence
from bottega.objectives import Objective
from bottega.packing import pack, split_into_micro_batches
from bottega.recipe.schema import Recipe
from bottega.records import Record, Text
from bottega.seeding import derive
from bottega.tokenization.codec import Codec
from bottega.training.dataset import EncodedRows
from bottega.training.encoding import ChunkEncoder, SidedRecord, count_workers, encode_all

# Fraction of the replay rows that is held out, and the most of them: each validation scores all of it.
HELD_OUT, MAX_HELD_OUT = 0.1, 200

# What a head reads [N, H]; comparing states needs V / H times less memory than comparing logits.
STATES = frozenset({"states"})

# The batch column with the states of the initial model, [N, H].
REFERENCE_STATES = "reference_states"

# Fraction of an update's examples that the anchor is computed on if none are replayed (`share: 0`).
ANCHOR_SHARE = 0.1


class Replay:
    """The replay rows of a recipe with a `guard`: which of them each update takes, and what gradient they add.

    objective  what they are trained with: plain text for a language model, else the run's own objective
    held_out   examples that are never trained on
    """

    def __init__(self, recipe: Recipe, codec: Codec, folder: Path | None = None) -> None:
        assert recipe.guard is not None
        self.section, self.seed, self.codec = recipe.guard, recipe.seed, codec
        for_texts, for_answers = _objectives(recipe, codec)
        self.objective = for_texts
        self.rows = _encode(recipe, codec, for_texts, for_answers, folder)
        self.examples = self.rows.examples
        order = random.Random(derive(recipe.seed, "guard")).sample(range(len(self.examples)), len(self.examples))
        held_out = min(MAX_HELD_OUT, max(1, round(HELD_OUT * len(order))))
        if held_out == len(order):
            where = ", ".join(source.path for source in recipe.replay_sources)
            raise DataError("one replay row is too few: some are held out", where=where, fix="add more of them")
        self.held_out = [self.examples[index] for index in order[:held_out]]
        self.train_indices = order[held_out:]
        self.per_update = self._per_update(recipe)

    def _per_update(self, recipe: Recipe) -> float:
        """Mean number of replay examples per update; not always whole."""
        share = self.section.share or (ANCHOR_SHARE if self.section.anchor else 0.0)
        if recipe.optim.update_tokens is None:
            return share / (1 - share) * (recipe.optim.examples or DEFAULT_EXAMPLES)
        length = float(np.mean(self.examples.tokens[self.train_indices]))
        return share / (1 - share) * recipe.optim.update_tokens / length

    @property
    def weight(self) -> float:
        """Weight of the replay loss relative to the run's own, whose weight is 1."""
        return self.section.share / (1 - self.section.share)

    def batches(self, step: int, tokens: int, device: str, *, packed: bool) -> list[Batch]:
        """The replay examples of an update in micro-batches of at most `tokens` tokens."""
        examples = self.examples_at(step)
        return _pack_batches(examples, tokens, device, packed=packed) if examples else []

    def accumulate(self, engine: Engine, batches: Sequence[Batch], step: int) -> MetricMeans:
        """Add the gradient of these batches to that of the update; return their metrics."""
        seed = partial(derive, self.seed, "guard", step)
        weight, anchor = self.weight, self.section.anchor
        return accumulate(engine, self.objective, batches, weight=weight, anchor=anchor, step=step, dropout_seed=seed)

    def held_out_loss(self, engine: Engine, tokens: int, device: str, *, packed: bool) -> float:
        """The loss on the replay rows that are never trained on."""
        batches = _pack_batches(self.held_out, tokens, device, packed=packed)
        counts, total = count_units(batches), 0.0
        for batch in batches:
            scores = engine.score(batch, self.objective.outputs)
            total += float(self.objective.loss(scores, batch).total(counts))
        return total

    def examples_at(self, step: int) -> list[Example]:
        """The replay examples of an update: the next in an endless sequence of shuffles, a function of `step` alone."""
        # A fractional `per_update` accumulates: an update takes what the whole part has grown by.
        first, last = int((step - 1) * self.per_update), int(step * self.per_update)
        size = len(self.train_indices)
        epochs = range(first // size, (last - 1) // size + 1) if last > first else range(0)
        order = (int(index) for epoch in epochs for index in permutation(size, self.seed, "guard", epoch))
        start = first - first // size * size
        indices = islice(order, start, start + last - first)
        examples = [self.examples[self.train_indices[index]] for index in indices]
        seeds = (derive(self.seed, "guard", step, index) for index in range(len(examples)))
        pairs = zip(examples, seeds, strict=True)
        return [self.objective.augment(example, self.codec, seed) for example, seed in pairs]


def accumulate(
    engine: Engine,
    objective: Objective,
    batches: Sequence[Batch],
    *,
    weight: float,
    anchor: float,
    step: int,
    dropout_seed: Callable[[int], int],
) -> MetricMeans:
    """Add the gradient of the replay loss and of the anchor; return both as metrics.

    weight  of the loss of `objective`
    anchor  weight of KL(initial model ‖ current model), a mean over the predictions of the rows
    """
    counts, metrics = count_units(batches), MetricMeans()
    anchored = Anchored(objective, weight, anchor, partial(_head_divergence, engine))
    # One batch at a time: the reference states of a single batch are in memory, not those of all.
    for index, batch in enumerate(batches):
        if anchor:
            states = engine.score(batch, STATES, by="reference")["states"]  # [N, H]
            batch = batch.with_columns(**{REFERENCE_STATES: states})
        seed = dropout_seed(index)
        (part,) = engine.accumulate(anchored, [batch], counts, step=step, dropout_seed=partial(_same_seed, seed))
        metrics.add(part.metrics, part.batch)
    return metrics


def _same_seed(seed: int, _: int) -> int:
    return seed


@dataclass(frozen=True)
class Anchored:
    """Weighted replay loss plus anchor, with the part of an objective's interface that the engine uses.

    divergence  (states [N, H], reference states [N, H]) → [N] KL(initial ‖ current)
    """

    objective: Objective
    weight: float
    anchor: float
    divergence: Callable[[Tensor, Tensor], Tensor]
    joint: bool = False
    logit_temperature: float = 1.0

    @property
    def outputs(self) -> frozenset[Any]:
        return self.objective.outputs | (STATES if self.anchor else frozenset())

    @property
    def weighted(self) -> bool:
        # With an anchor the loss is not linear in the log-probabilities.
        return self.objective.weighted and not self.anchor

    @property
    def smoothing(self) -> float:
        return self.objective.smoothing

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        loss = self.objective.loss(scores, batch)
        metrics = {"general": next(iter(loss.terms.values()))}
        anchor = None
        if self.anchor:
            divergence = self.divergence(scores["states"], batch.columns[REFERENCE_STATES])  # [N]
            anchor = metrics["divergence"] = Term((batch.weight * divergence).sum(), "token", self.anchor)
        # Metrics must not keep the graph of the batch alive.
        detached = {name: term._replace(sum=term.sum.detach()) for name, term in metrics.items()}
        return AnchoredLoss(loss.terms, detached, weight=self.weight, anchor=anchor)


@dataclass(frozen=True)
class AnchoredLoss(Loss):
    """weight · replay loss + anchor coefficient · mean KL."""

    weight: float = 1.0
    anchor: Term | None = None

    def total(self, counts: Mapping[Unit, float]) -> Tensor:
        total = self.weight * super().total(counts)
        if self.anchor is None:
            return total
        return total + self.anchor.coefficient * self.anchor.sum / max(counts[self.anchor.unit], 1e-12)


def _head_divergence(engine: Engine, states: Tensor, reference_states: Tensor) -> Tensor:
    """[N, H], [N, H] → [N] KL(initial model ‖ current model) between the next-token distributions of both heads."""
    base = engine.scorer if engine.reference is None else engine.reference
    return kl_divergence(
        get_language_head(engine.scorer.network), states, get_language_head(base.network), reference_states
    )


def _pack_batches(examples: Sequence[Example], tokens: int, device: str, *, packed: bool) -> list[Batch]:
    return [pack(group, share=packed).to(device) for group in split_into_micro_batches(examples, tokens, share=packed)]


def _objectives(recipe: Recipe, codec: Codec) -> tuple[Objective, Objective]:
    """(for texts without a prompt, for all other records).

    A language model may be trained on what no text can be (preference pairs, rewards); its replay rows are plain text
    and answers. Any other model replays the rows of its own objective.
    """
    if not heads.load(recipe.objective.head).autoregressive:
        return recipe.objective, recipe.objective
    encoder_decoder = codec.decoder_start is not None
    return objectives.for_plain_text(encoder_decoder=encoder_decoder), objectives.default_for_head("language")


def _encode(
    recipe: Recipe, codec: Codec, for_texts: Objective, for_answers: Objective, folder: Path | None
) -> EncodedRows:
    """The replay rows as examples; raise a DataError if none carries a loss."""
    encoded = EncodedRows(ExampleCache(folder))
    bad_rows = recipe.data.bad_rows
    record_types = tuple(dict.fromkeys((*for_texts.reads, *for_answers.reads)))
    records = read_records(recipe.replay_sources, record_types, bad_rows=bad_rows, dropped=encoded.dropped)

    def objective_of(record: Record) -> Objective:
        return for_texts if isinstance(record, Text) and not record.answer else for_answers

    encode = ChunkEncoder(objective_of, codec, drop=bad_rows == "drop")
    sided: Iterator[SidedRecord] = (("train", source, record) for source, record in records)
    for _, _, made in encode_all(sided, encode, count_workers(recipe.devices.threads)):
        encoded.add(made)
    encoded.examples.seal()
    encoded.refuse_empty(", ".join(source.path for source in recipe.replay_sources))
    return encoded
