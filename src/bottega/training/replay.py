"""General rows beside those of a run: some are trained on with each update, others tell what is being forgotten.

Replay is Robins (1995); the anchor, Li and Hoiem (2016, arXiv 1606.09282), with the whole distribution of the base.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bottega import objectives
from bottega.batch import Batch, Example, Loss, MetricMeans, Term, Unit, count_units
from bottega.data.encode import EncodedRows
from bottega.data.example_cache import ExampleCache
from bottega.data.reader import read_records
from bottega.data.sampler import DEFAULT_EXAMPLES, permutation
from bottega.engine.engine import Engine
from bottega.errors import DataError
from bottega.models.language_head import get_language_head, kl_divergence
from bottega.objectives import Objective
from bottega.packing import pack, split_into_micro_batches
from bottega.recipe.schema import Recipe
from bottega.records import Record, Text
from bottega.seeding import derive
from bottega.tokenization.codec import Codec

HELD_OUT, MOST = 0.1, 200
"""Share of the general rows that is held out, and the most of them."""

STATES = frozenset({"states"})
"""What a head reads, by which a model is compared with what it was."""

BEFORE = "states_before"
"""The column of a batch that holds those of the reference."""

ANCHORED = 0.1
"""Share of an update's examples that is drawn to be anchored on where none is replayed."""


class Replay:
    """The general rows of a recipe with a `guard`: which each update takes, and what their gradient adds to it.

    objective  what they teach: a model of language to predict them, any other what the run itself teaches
    held_out   examples that are never trained on
    """

    def __init__(self, recipe: Recipe, codec: Codec, folder: Path | None = None) -> None:
        assert recipe.guard is not None
        self.section, self.seed, self.codec = recipe.guard, recipe.seed, codec
        text = objectives.PLAIN_TEXT if codec.decoder_start is None else objectives.SPANS_OF_TEXT
        kinds = (
            [recipe.objective]
            if recipe.objective.head != "language"
            else [_plain(text), _plain(objectives.DEFAULT_OBJECTIVE)]
        )
        encoded = EncodedRows(ExampleCache(folder))
        bad_rows = recipe.data.bad_rows
        reads = tuple(dict.fromkeys(record_type for kind in kinds for record_type in kind.reads))
        for _, record in read_records(recipe.replay_sources, reads, bad_rows=bad_rows, dropped=encoded.dropped):
            encoded.add(record, _for(record, kinds), codec, drop=bad_rows == "drop")
        encoded.examples.seal()
        where = ", ".join(source.path for source in recipe.replay_sources)
        encoded.refuse_empty(where)
        order = random.Random(derive(recipe.seed, "guard")).sample(range(len(encoded.examples)), len(encoded.examples))
        held = min(MOST, max(1, round(HELD_OUT * len(order))))
        if held == len(order):
            raise DataError("one general row is too few: some are held out", where=where, fix="give more of them")
        self.objective = kinds[0]
        self.examples, self.kept = encoded.examples, order[held:]
        self.held_out = [encoded.examples[place] for place in order[:held]]
        self.each = self._each(recipe)

    def _each(self, recipe: Recipe) -> float:
        """General examples an update, not always a whole number."""
        share = self.section.share or (ANCHORED if self.section.anchor else 0.0)
        if recipe.optim.update_tokens is None:
            return share / (1 - share) * (recipe.optim.examples or DEFAULT_EXAMPLES)
        length = float(np.mean(self.examples.tokens[self.kept]))
        return share / (1 - share) * recipe.optim.update_tokens / length

    @property
    def weight(self) -> float:
        """How much the loss of general rows counts beside the run's own."""
        return self.section.share / (1 - self.section.share)

    def batches(self, step: int, tokens: int, device: str, *, packed: bool) -> list[Batch]:
        """The replay examples of an update in micro-batches of at most so many tokens."""
        examples = self.examples_at(step)
        return _packed(examples, tokens, device, packed=packed) if examples else []

    def accumulate(self, engine: Engine, batches: Sequence[Batch], step: int) -> MetricMeans:
        """Add the gradient of these batches to the update's; their metrics."""
        seed = partial(derive, self.seed, "guard", step)
        weight, anchor = self.weight, self.section.anchor
        return accumulate(engine, self.objective, batches, weight=weight, anchor=anchor, step=step, dropout_seed=seed)

    def held_out_loss(self, engine: Engine, tokens: int, device: str, *, packed: bool) -> float:
        """The loss on the replay rows that are never trained on."""
        batches = _packed(self.held_out, tokens, device, packed=packed)
        counts, total = count_units(batches), 0.0
        for batch in batches:
            scores = engine.score(batch, self.objective.outputs)
            total += float(self.objective.loss(scores, batch).total(counts))
        return total

    def examples_at(self, step: int) -> list[Example]:
        """The replay examples of an update: the next of an endless sequence of shuffles, whatever came before."""
        first, last = int((step - 1) * self.each), int(step * self.each)
        size = len(self.kept)
        epochs = range(first // size, (last - 1) // size + 1) if last > first else range(0)
        order = (int(place) for epoch in epochs for place in permutation(size, self.seed, "guard", epoch))
        begin = first - first // size * size
        taken = [self.examples[self.kept[place]] for place in islice(order, begin, begin + last - first)]
        seeds = (derive(self.seed, "guard", step, place) for place in range(len(taken)))
        return [self.objective.augment(one, self.codec, seed) for one, seed in zip(taken, seeds, strict=True)]


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
    """Add the gradient that keeps the model as it was on these rows; their loss, and the KL where it is anchored.

    weight  of the loss that `objective` makes of them
    anchor  of KL(as the run began ‖ as it is), a mean over their predictions
    """
    counts, metrics = count_units(batches), MetricMeans()
    anchored = Anchored(objective, weight, anchor, partial(_divergence, engine))
    # One batch at a time, so that the reference's states of one are held, not of all.
    for index, batch in enumerate(batches):
        before = engine.score(batch, STATES, by="reference") if anchor else {}  # [N, H]
        given = batch.with_columns(**{BEFORE: before["states"]}) if anchor else batch
        seed = dropout_seed(index)
        (part,) = engine.accumulate(anchored, [given], counts, step=step, dropout_seed=partial(_same_seed, seed))
        metrics.add(part.metrics, part.batch)
    return metrics


def _same_seed(seed: int, _: int) -> int:
    return seed


@dataclass(frozen=True)
class Anchored:
    """The loss of replay rows, times a weight, plus an anchor: as much as the engine must know of an objective.

    divergence  (states [N, H], the same as the run began) → [N] KL from then to now
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
        return self.objective.weighted and not self.anchor

    @property
    def smoothing(self) -> float:
        return self.objective.smoothing

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        loss = self.objective.loss(scores, batch)
        metrics = {"general": next(iter(loss.terms.values()))}
        anchor = None
        if self.anchor:
            apart = self.divergence(scores["states"], batch.columns[BEFORE])
            anchor = metrics["divergence"] = Term((batch.weight * apart).sum(), "token", self.anchor)
        detached = {name: term._replace(sum=term.sum.detach()) for name, term in metrics.items()}
        return AnchoredLoss(loss.terms, detached, weight=self.weight, anchor=anchor)


@dataclass(frozen=True)
class AnchoredLoss(Loss):
    """weight · (the loss of the rows) + the anchor's term."""

    weight: float = 1.0
    anchor: Term | None = None

    def total(self, counts: Mapping[Unit, float]) -> Tensor:
        total = self.weight * super().total(counts)
        if self.anchor is None:
            return total
        return total + self.anchor.coefficient * self.anchor.sum / max(counts[self.anchor.unit], 1e-12)


def _divergence(engine: Engine, states: Tensor, before: Tensor) -> Tensor:
    """[N, H], [N, H] → [N] KL(as the run began ‖ as it is) of what the two language heads make of these states."""
    base = engine.scorer if engine.reference is None else engine.reference
    return kl_divergence(get_language_head(engine.scorer.network), states, get_language_head(base.network), before)


def _packed(examples: Sequence[Example], tokens: int, device: str, *, packed: bool) -> list[Batch]:
    return [pack(group, share=packed).to(device) for group in split_into_micro_batches(examples, tokens, share=packed)]


def _plain(kind: str) -> Objective:
    return objectives.build_objective({"kind": kind})


def _for(record: Record, kinds: Sequence[Objective]) -> Objective:
    """Texts are read whole, all else is answered."""
    plain = isinstance(record, Text) and not record.answer
    return kinds[0] if plain else kinds[-1]
