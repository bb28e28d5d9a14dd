"""Recipe → records → examples → the updates of a run, in an order that only the seed decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Example
from bottega.data.example_cache import ExampleCache
from bottega.data.windows import Windows
from bottega.errors import DataError
from bottega.objectives import OnPolicy
from bottega.recipe.schema import Recipe
from bottega.seeding import derive
from bottega.tokenization.codec import Codec

DEFAULT_EXAMPLES = 16


class SampledExample(NamedTuple):
    """An example, by its number, and how many passes over its source came before."""

    example: int
    turn: int


@dataclass(frozen=True)
class Update:
    """The examples of one update, and where in the endless stream of examples the next begins.

    passed  how many were drawn before it that had nothing to teach
    """

    step: int
    examples: list[Example]
    position: int
    passed: int = 0


class _Selection(NamedTuple):
    """The examples of an update, how many of the stream they took, and how many draws of it were passed over."""

    examples: list[Example]
    size: int
    passed: int


class Sampler:
    """The updates of a run: shuffles of the examples, one after the other without end, cut into updates.

    No example is left out at the end of an epoch: the update that reaches it goes on into the next shuffle. Where
    sources are mixed, an epoch holds `weight` times the examples of each; a part of a source is another one each time.
    A text longer than a row is cut at other places in each pass over its source. Of examples that have nothing to teach
    together no update is made: the next ones are taken.
    """

    def __init__(self, examples: ExampleCache, recipe: Recipe, codec: Codec) -> None:
        self.examples, self.seed, self.objective = examples, recipe.seed, recipe.objective
        moving = recipe.data.windows == "moving" and recipe.too_long == "split"
        self.windows = Windows(examples, recipe.objective, codec, recipe.seed, moving=moving)
        weights = [source.weight for source in recipe.train_sources]
        places = [np.flatnonzero(examples.sources == number) for number in range(len(weights))]
        self.parts = [
            (own, max(1, round(weight * len(own)))) for own, weight in zip(places, weights, strict=True) if len(own)
        ]
        self.epoch_examples = sum(count for _, count in self.parts)
        self.update_tokens = recipe.optim.update_tokens
        self.update_examples = recipe.optim.examples or DEFAULT_EXAMPLES
        self.passes = recipe.objective.passes if isinstance(recipe.objective, OnPolicy) else 1
        self.steps = recipe.optim.steps or self.passes * self._steps(recipe.optim.epochs or 1.0)

    @property
    def repeats(self) -> bool:
        """Whether an example may come a second time."""
        drawn_twice = any(count > len(own) for own, count in self.parts)
        taken = self.steps * self.update_examples / self.passes
        beyond = self.update_tokens is not None or taken > self.epoch_examples
        return drawn_twice or beyond

    def _steps(self, epochs: float) -> int:
        """Updates until every example has been taken `epochs` times."""
        wanted = math.ceil(epochs * self.epoch_examples - 1e-9)
        if self.update_tokens is None:
            return math.ceil(wanted / self.update_examples)
        stream, position, steps = self._stream(0), 0, 0
        while position < wanted:
            position, steps = position + len(self._take(stream)), steps + 1
        return steps

    def updates(self, step: int = 0, position: int = 0) -> Iterator[Update]:
        """The updates after `step`, when the next new example is the one at `position`.

        Where an update's examples are taken several times, they are new until the last of these.
        """
        stream, draw = self._stream(position), None
        for number in range(step + 1, self.steps + 1):
            draw, last = draw or self._draw(stream), number % self.passes == 0
            position += draw.size if last else 0
            yield Update(number, draw.examples, position, draw.passed)
            draw = None if last else draw._replace(passed=0)

    def _draw(self, stream: Iterator[SampledExample]) -> _Selection:
        """The next examples that have something to teach; a DataError where there are none."""
        size, passed = 0, 0
        while size <= self._all:
            taken = self._take(stream)
            size, examples = size + len(taken), [self.windows.example(*one) for one in taken]
            if self.objective.teaches(examples):
                return _Selection(examples, size, passed)
            passed += 1
        raise _no_contrast_error(
            examples, "raise optim.examples, give negatives, or leave out a label that all rows have"
        )

    @property
    def _all(self) -> int:
        """How much of the stream surely holds every example, each in an update with others."""
        return self.epoch_examples * (1 + max(math.ceil(len(own) / count) for own, count in self.parts))

    def _take(self, stream: Iterator[SampledExample]) -> list[SampledExample]:
        """The next update's examples: so many, or as many as reach so many tokens."""
        if self.update_tokens is None:
            return list(islice(stream, self.update_examples))
        taken, tokens = list[SampledExample](), 0
        while tokens < self.update_tokens:
            taken.append(next(stream))
            tokens += self.windows.tokens(*taken[-1])
        return taken

    def _stream(self, position: int) -> Iterator[SampledExample]:
        epoch, place = divmod(position, self.epoch_examples)
        while True:
            yield from (SampledExample(*one) for one in self._epoch(epoch)[place:].tolist())
            epoch, place = epoch + 1, 0

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """[epoch_examples, 2] the examples of an epoch in their order, each with the pass over its source."""
        drawn = [self._drawn(number, own, count, epoch) for number, (own, count) in enumerate(self.parts)]
        whole: NDArray[np.int64] = np.concatenate(drawn)
        return whole[permutation(self.epoch_examples, self.seed, "shuffle", epoch)]

    def _drawn(self, number: int, own: NDArray[np.int64], count: int, epoch: int) -> NDArray[np.int64]:
        """[count, 2] a source's share of an epoch: the next `count` of an endless row of its own shuffles."""
        if count == len(own):
            return np.stack([own, np.full(count, epoch)], axis=1)
        first = epoch * count
        passes = range(first // len(own), (first + count - 1) // len(own) + 1)
        order = np.concatenate([permutation(len(own), self.seed, "mix", number, turn) for turn in passes])
        places = np.arange(first, first + count)
        return np.stack([own[order[places - passes[0] * len(own)]], places // len(own)], axis=1)


def validation_groups(examples: Sequence[Example], recipe: Recipe) -> list[list[Example]]:
    """Validation examples in parts that are judged together, all of about the size of an update.

    Parts in which there is nothing to tell apart are left out; a DataError where that is all of them.
    """
    parts = -(-len(examples) // (recipe.optim.examples or DEFAULT_EXAMPLES))
    order = permutation(len(examples), recipe.seed, "validation parts")
    found = [[examples[number] for number in part] for part in np.array_split(order, parts)] if parts else []
    told = [part for part in found if recipe.objective.teaches(part)]
    if found and not told:
        raise _no_contrast_error(found[0], "hold out more rows that differ, or give them negatives: data.validation")
    return told


def _no_contrast_error(examples: Sequence[Example], fix: str) -> DataError:
    where = ", ".join(example.id for example in examples[:3])
    return DataError("every text belongs to every other, so there is nothing to tell apart", where=where, fix=fix)


def permutation(count: int, seed: int, purpose: str, *numbers: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive(seed, purpose, *numbers)).permutation(count)
