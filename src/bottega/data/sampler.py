"""The sampler: which examples each update of a run takes, in an order that only the seed decides.

The position in the stream of examples is all the state there is: a resumed run continues exactly where it stopped.
"""

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
from bottega.recipe.schema import Recipe
from bottega.seeding import derive
from bottega.tokenization.codec import Codec

# Examples of an update if the recipe gives neither `optim.examples` nor `optim.update_tokens`.
DEFAULT_EXAMPLES = 16
Indices = NDArray[np.uint32]

# Examples of an epoch that are put in order at a time.
EPOCH_PIECE = 4096


class SampledExample(NamedTuple):
    """The index of an example, and the number of earlier passes over its source."""

    example: int
    turn: int


@dataclass(frozen=True)
class Update:
    """The examples of one update, and the position in the stream at which the next update begins.

    passed  number of selections skipped before it because their examples offered no contrast
    """

    step: int
    examples: list[Example]
    position: int
    passed: int = 0


class _Selection(NamedTuple):
    """The examples of an update, how many examples it consumed from the stream, and how many selections it skipped."""

    examples: list[Example]
    size: int
    passed: int


class Sampler:
    """Yields the updates of a run: an endless stream of shuffled epochs, cut into updates.

    - No example is left out at the end of an epoch: the update that reaches it continues into the next shuffle.
    - If sources are mixed, an epoch holds `weight` times the examples of each; a fraction of a source is a different
      one in each epoch.
    - A text longer than a row is cut at different positions in each pass over its source.
    - A selection without anything to learn from (`Objective.is_informative`) is skipped.
    """

    def __init__(self, examples: ExampleCache, recipe: Recipe, codec: Codec) -> None:
        self.examples, self.seed, self.objective = examples, recipe.seed, recipe.objective
        moving = recipe.data.windows == "moving" and recipe.too_long == "split"
        self.windows = Windows(examples, recipe.objective, codec, recipe.seed, moving=moving)
        weights = [source.weight for source in recipe.train_sources]
        sources = examples.sources
        indices = [_compact(np.flatnonzero(sources == source)) for source in range(len(weights))]
        # (indices of a source's examples, how many of them an epoch holds). A small weight still gives one.
        self.parts = [
            (source, max(1, round(weight * len(source))))
            for source, weight in zip(indices, weights, strict=True)
            if len(source)
        ]
        self.epoch_examples = sum(count for _, count in self.parts)
        self.update_tokens = recipe.optim.update_tokens
        self.update_examples = recipe.optim.examples or DEFAULT_EXAMPLES
        self.passes = on_policy.passes if (on_policy := recipe.objective.on_policy) else 1
        self.steps = recipe.optim.steps or self.passes * self._steps(recipe.optim.epochs or 1.0)

    @property
    def repeats(self) -> bool:
        """Whether an example may be sampled more than once in the run."""
        within_epoch = any(count > len(source) for source, count in self.parts)
        consumed = self.steps * self.update_examples / self.passes
        # With `update_tokens` the number of examples of an update varies, so repetition cannot be ruled out.
        across_epochs = self.update_tokens is not None or consumed > self.epoch_examples
        return within_epoch or across_epochs

    def _steps(self, epochs: float) -> int:
        """Number of updates that make `epochs` epochs."""
        # 0.1 · 70 is slightly above 7 in binary, and would be rounded up to 8.
        wanted = math.ceil(epochs * self.epoch_examples - 1e-9)
        if self.update_tokens is None:
            return math.ceil(wanted / self.update_examples)
        stream, position, steps = self._stream(0), 0, 0
        while position < wanted:
            position, steps = position + len(self._next_examples(stream)), steps + 1
        return steps

    def updates(self, step: int = 0, position: int = 0) -> Iterator[Update]:
        """Yield the updates after `step`; the stream of examples continues at `position`.

        If an objective takes several passes over the same examples (`OnPolicy.passes`), the position advances with the
        last of them, so that a run resumed between two passes selects the same examples again.
        """
        stream, selection = self._stream(position), None
        for number in range(step + 1, self.steps + 1):
            selection, last = selection or self._select(stream), number % self.passes == 0
            position += selection.size if last else 0
            yield Update(number, selection.examples, position, selection.passed)
            # The skipped selections are reported once, not with every pass.
            selection = None if last else selection._replace(passed=0)

    def _select(self, stream: Iterator[SampledExample]) -> _Selection:
        """The next examples there is something to learn from; raises a DataError if there are none."""
        size, passed = 0, 0
        while size <= self._search_limit:
            sampled = self._next_examples(stream)
            size, examples = size + len(sampled), [self.windows.example(*item) for item in sampled]
            if self.objective.is_informative(examples):
                return _Selection(examples, size, passed)
            passed += 1
        raise _no_contrast_error(
            examples, "raise optim.examples, give negatives, or leave out a label that all rows have"
        )

    @property
    def _search_limit(self) -> int:
        """Length of stream that is certain to contain every example, whatever fraction of a source an epoch takes."""
        return self.epoch_examples * (1 + max(math.ceil(len(source) / count) for source, count in self.parts))

    def _next_examples(self, stream: Iterator[SampledExample]) -> list[SampledExample]:
        """The examples of the next update: a fixed number, or as many as reach `update_tokens`."""
        if self.update_tokens is None:
            return list(islice(stream, self.update_examples))
        sampled, tokens = list[SampledExample](), 0
        while tokens < self.update_tokens:
            sampled.append(next(stream))
            tokens += self.windows.tokens(*sampled[-1])
        return sampled

    def _stream(self, position: int) -> Iterator[SampledExample]:
        epoch, start = divmod(position, self.epoch_examples)
        while True:
            yield from self._epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def _epoch(self, epoch: int, start: int) -> Iterator[SampledExample]:
        """Yield the examples of an epoch in order, from position `start`."""
        parts = [self._epoch_part(number, source, count, epoch) for number, (source, count) in enumerate(self.parts)]
        # [epoch_examples] each; a single part is not copied.
        indices, turns = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        order = _compact(permutation(self.epoch_examples, self.seed, "shuffle", epoch))
        # In pieces: as Python objects, an epoch of millions of examples would take a hundred bytes for each.
        for first in range(start, len(order), EPOCH_PIECE):
            piece = order[first : first + EPOCH_PIECE]
            yield from map(SampledExample, indices[piece].tolist(), turns[piece].tolist())

    def _epoch_part(self, number: int, source: Indices, count: int, epoch: int) -> tuple[Indices, NDArray[np.int64]]:
        """([count] examples of one source in an epoch, [count] the pass over the source of each).

        They are the next `count` of an endless stream of the source's shuffles.
        """
        if count == len(source):  # a whole source needs no order of its own: the epoch is shuffled as a whole
            return source, np.broadcast_to(np.int64(epoch), count)
        first = epoch * count
        passes = range(first // len(source), (first + count - 1) // len(source) + 1)
        # Only the passes that this epoch touches are shuffled, so that any epoch can be computed on its own.
        order = np.concatenate([permutation(len(source), self.seed, "mix", number, turn) for turn in passes])
        offsets = np.arange(first, first + count)  # [count] positions in the stream of this source
        return source[order[offsets - passes[0] * len(source)]], offsets // len(source)


def _compact(indices: NDArray[np.int64]) -> Indices:
    """The same indices in four bytes each: there may be millions of them, for as long as a run takes."""
    return indices.astype(np.uint32)


def validation_groups(examples: Sequence[Example], recipe: Recipe) -> list[list[Example]]:
    """Validation examples in groups of about an update's size, for objectives that compare examples with each other.

    Groups without contrast are left out; raises a DataError if no group is left.
    """
    count = -(-len(examples) // (recipe.optim.examples or DEFAULT_EXAMPLES))
    order = permutation(len(examples), recipe.seed, "validation parts")
    groups = [[examples[index] for index in part] for part in np.array_split(order, count)] if count else []
    useful = [group for group in groups if recipe.objective.is_informative(group)]
    if groups and not useful:
        raise _no_contrast_error(groups[0], "hold out more rows that differ, or give them negatives: data.validation")
    return useful


def _no_contrast_error(examples: Sequence[Example], fix: str) -> DataError:
    where = ", ".join(example.id for example in examples[:3])
    return DataError("every text belongs to every other, so there is nothing to tell apart", where=where, fix=fix)


def permutation(count: int, seed: int, purpose: str, *numbers: int) -> NDArray[np.int64]:
    """[count] a random order of the indices below `count`, derived from the seed, the purpose and the numbers."""
    return np.random.default_rng(derive(seed, purpose, *numbers)).permutation(count)
