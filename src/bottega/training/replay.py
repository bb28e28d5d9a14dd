"""General rows beside those of a run: some are trained on with each update, others tell what is being forgotten.

Replay is Robins (1995); the anchor, Li and Hoiem (2016, arXiv 1606.09282), with the whole distribution of the base.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from bottega import objectives
from bottega.batch import Example
from bottega.data import sources
from bottega.data.encode import Encoded
from bottega.data.example_cache import Shelf
from bottega.data.formats import records
from bottega.data.sampler import DEFAULT_EXAMPLES, shuffled
from bottega.errors import DataError
from bottega.objectives import Objective
from bottega.recipe.schema import Recipe
from bottega.records import Record, Text
from bottega.seeding import derive
from bottega.tokenization.codec import Codec

HELD_OUT, MOST = 0.1, 200
"""Share of the general rows that is held out, and the most of them."""

ANCHORED = 0.1
"""Share of an update's examples that is drawn to be anchored on where none is replayed."""


class Guarded:
    """The general rows of a recipe with a `guard`, and how they are drawn.

    objective  what they teach: a model of language to predict them, any other what the run itself teaches
    held_out   examples that are never trained on
    """

    def __init__(self, recipe: Recipe, codec: Codec, folder: Path | None = None) -> None:
        assert recipe.guard is not None
        self.section, self.seed, self.codec = recipe.guard, recipe.seed, codec
        text = "causal" if codec.decoder_start is None else "span"
        kinds = [recipe.objective] if recipe.objective.head != "language" else [_plain(text), _plain("sft")]
        encoded = Encoded(Shelf(folder))
        for record in self._records(recipe, kinds):
            encoded.add(record, _for(record, kinds), codec)
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

    @staticmethod
    def _records(recipe: Recipe, kinds: Sequence[Objective]) -> Iterator[Record]:
        reads = tuple(dict.fromkeys(record for kind in kinds for record in kind.reads))
        for number, rows in sources.rows(recipe.replay_sources):
            source = recipe.replay_sources[number]
            yield from records(
                rows, reads, format=source.format, mapping=source.mapping, text_template=source.text_template
            )

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

    def drawn(self, step: int) -> list[Example]:
        """The general examples of an update: the next of an endless row of shuffles, whatever came before."""
        first, last = int((step - 1) * self.each), int(step * self.each)
        size = len(self.kept)
        epochs = range(first // size, (last - 1) // size + 1) if last > first else range(0)
        order = (int(place) for epoch in epochs for place in shuffled(size, self.seed, "guard", epoch))
        begin = first - first // size * size
        taken = [self.examples[self.kept[place]] for place in islice(order, begin, begin + last - first)]
        seeds = (derive(self.seed, "guard", step, place) for place in range(len(taken)))
        return [self.objective.drawn(one, self.codec, seed) for one, seed in zip(taken, seeds, strict=True)]


def _plain(kind: str) -> Objective:
    return objectives.made({"kind": kind})


def _for(record: Record, kinds: Sequence[Objective]) -> Objective:
    """Texts are read whole, all else is answered."""
    plain = isinstance(record, Text) and not record.answer
    return kinds[0] if plain else kinds[-1]
