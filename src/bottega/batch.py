"""Rows, examples and the batch that every objective computes on.

A batch is one flat sequence of tokens laid out as a depth-first prefix tree, so a prefix that several rows share
is computed once. Two integers a token are the whole attention mask: token k is visible to query q exactly when
`first[k] <= q < last[k]`. Predictions are pairs: at place `at[n]` of the flat sequence, `label[n]` is expected.

Shape legend, used everywhere:
    T  tokens in the flat sequence (after sharing)      N  predictions
    R  rows          E  examples          V  vocabulary          H  hidden width          C  classes

This module imports no torch, so that objectives (and the recipe) load without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Ints = NDArray[np.int64]
Unit = str
"""What a mean is over: `token` (by weight), `row`, `example`, or the name of a column, by what it holds."""

UNITS: tuple[Unit, ...] = ("token", "row", "example")

FLAT = ("tokens", "position", "first", "last", "at", "label", "weight")
"""What a batch has of each token and each prediction, without a number of a row among it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence as the model would see it alone, with what it must predict.

    tokens     [t] token ids
    at         [n] the places in `tokens` whose hidden states are read, in ascending order
    label      [n] what is expected there: a token id, a class, or a number
    weight     [n] share of each prediction in the loss
    both_ways  tokens see the whole row (encoders) instead of their past
    source     [s] what the encoder of an encoder–decoder reads; every token of the row sees all of it
    columns    further values, [n] one a prediction or [1] one a row
    """

    tokens: Ints
    at: Ints
    label: NDArray[Any]
    weight: NDArray[np.float32]
    both_ways: bool = False
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    source: Ints | None = None

    @property
    def computed(self) -> Ints:
        """The tokens a model must be run on: none after the last place read, which nothing sees."""
        return self.tokens if self.both_ways else self.tokens[: int(self.at[-1]) + 1]

    @property
    def prompt(self) -> list[int]:
        """What an answer is written after: all of it, or what is read."""
        tokens: list[int] = (self.tokens if self.source is None else self.source).tolist()
        return tokens

    @property
    def labelled(self) -> int:
        """Predictions that carry loss."""
        return int(np.count_nonzero(self.weight))

    @property
    def read(self) -> int:
        """Tokens an encoder must be run on beside them."""
        return 0 if self.source is None else len(self.source)

    def of_every_token(self) -> Row:
        """The same tokens, with every one but the first predicted."""
        places = np.arange(len(self.tokens) - 1)
        ones = np.ones(len(places), np.float32)
        return Row(self.tokens, places, self.tokens[1:], ones, self.both_ways, source=self.source)

    def marked(self, **columns: Any) -> Row:
        """The same row with these numbers beside its predictions, one each or one for all."""
        full = {name: np.broadcast_to(np.float32(value), self.at.shape) for name, value in columns.items()}
        return replace(self, columns={**self.columns, **full})


@dataclass(frozen=True, slots=True)
class Example:
    """What counts as one in `optim.examples`: a row for SFT, two for a preference pair, a prompt for GRPO.

    about  what else must be known of it, as its objective says
    """

    id: str
    rows: tuple[Row, ...]
    about: Any = None

    @property
    def tokens(self) -> int:
        """Tokens of all rows, had nothing been shared."""
        return sum(len(row.tokens) + row.read for row in self.rows)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The prefix tree: node m is tokens `start[m]:end[m]`, seen after those of `parent[m]` (-1: none).

    Nodes stand in depth-first order, so a parent comes before its children.
    """

    start: Ints
    end: Ints
    parent: Ints

    def __len__(self) -> int:
        return len(self.start)

    def path(self, node: int) -> Ints:
        """Flat indices of every token from the root down to the end of `node`."""
        spans = []
        while node >= 0:
            spans.append(np.arange(self.start[node], self.end[node]))
            node = int(self.parent[node])
        return np.concatenate(spans[::-1])


@dataclass(frozen=True)
class EncoderInput:
    """What the encoder of an encoder–decoder reads: texts, one after the other, each seeing itself alone.

    tokens position first last   [S], as of a batch
    nodes                        the texts, all without parents
    of                           for each node of the batch, which of them its tokens see
    """

    tokens: Tensor
    position: Tensor
    first: Tensor
    last: Tensor
    nodes: Nodes
    of: Ints

    def to(self, device: str) -> EncoderInput:
        """The same on `device`."""
        names = ("tokens", "position", "first", "last")
        moved: dict[str, Any] = {name: _moved(getattr(self, name), device) for name in names}
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch:
    """Many rows as one flat prefix tree; built by `packing.pack`.

    tokens position first last   [T]; `position` is the depth along the token's own path
    at label weight row          [N]; `row[n]` is the row a prediction belongs to
    example                      [R]; the example a row belongs to
    columns                      values by name, each [N] or [R]
    ids                          E names of examples (`file:line`)
    tokens_real                  tokens of the rows, had nothing been shared or left out
    source                       what an encoder reads beside it, if the model has one
    statistics                   what the objective asked to know of the whole update, by name
    """

    tokens: Tensor
    position: Tensor
    first: Tensor
    last: Tensor
    at: Tensor
    label: Tensor
    weight: Tensor
    row: Tensor
    example: Tensor
    columns: Mapping[str, Tensor]
    ids: tuple[str, ...]
    nodes: Nodes
    tokens_real: int
    statistics: Mapping[str, float] = field(default_factory=dict)
    source: EncoderInput | None = None

    @property
    def computed(self) -> int:
        """Tokens that a model is run on."""
        return len(self.tokens) + (0 if self.source is None else len(self.source.tokens))

    def sum_rows(self, values: Tensor) -> Tensor:
        """[N, …] → [R, …]: each row's sum over its predictions."""
        return values.new_zeros(len(self.example), *values.shape[1:]).index_add(0, self.row, values)

    def mean_rows(self, values: Tensor) -> Tensor:
        """[N, …] → [R, …]: each row's mean over its predictions."""
        size = self.sum_rows(values.new_ones(len(values)))
        return self.sum_rows(values) / size.view(-1, *[1] * (values.dim() - 1))

    def sum_examples(self, values: Tensor) -> Tensor:
        """[R] → [E]: each example's sum over its rows."""
        return values.new_zeros(len(self.ids)).index_add(0, self.example, values)

    def count(self, unit: Unit) -> float:
        """How many of `unit` this batch holds."""
        if unit not in UNITS:
            return float(self.columns[unit].sum())
        if unit == "token":
            return float(self.weight.sum())
        return float(len(self.example) if unit == "row" else len(self.ids))

    def with_columns(self, **columns: Tensor) -> Batch:
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            name: _moved(getattr(self, name), device)
            for name in ("tokens", "position", "first", "last", "at", "label", "weight", "row", "example")
        }
        columns = {name: _moved(column, device) for name, column in self.columns.items()}
        source = None if self.source is None else self.source.to(device)
        return replace(self, columns=columns, source=source, **moved)


def _moved(tensor: Tensor, device: str) -> Tensor:
    # What comes to the CPU is read at once; nobody waits for it there.
    return tensor.to(device, non_blocking=device != "cpu")


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Several batches as one: what was predicted, row by row; it cannot be computed again, as `nodes` are the first's.

    Values of their predictions, one after the other, are those of its own.
    """
    if len(batches) == 1:
        return batches[0]
    from torch import cat

    rows = list(accumulate((len(batch.example) for batch in batches), initial=0))
    examples = list(accumulate((len(batch.ids) for batch in batches), initial=0))
    flat: dict[str, Any] = {name: cat([getattr(batch, name) for batch in batches]) for name in FLAT}
    return replace(
        batches[0],
        **flat,
        row=cat([batch.row + before for batch, before in zip(batches, rows, strict=False)]),
        example=cat([batch.example + before for batch, before in zip(batches, examples, strict=False)]),
        columns={name: cat([batch.columns[name] for batch in batches]) for name in batches[0].columns},
        ids=tuple(name for batch in batches for name in batch.ids),
        tokens_real=sum(batch.tokens_real for batch in batches),
    )


def count_units(batches: Sequence[Batch]) -> dict[Unit, float]:
    """How many of each unit the whole update holds."""
    units = (*UNITS, *batches[0].columns) if batches else UNITS
    return {unit: sum(batch.count(unit) for batch in batches) for unit in units}


class Term(NamedTuple):
    """A part of a loss or a metric: a sum over the batch, to be divided by the whole update's count of `unit`."""

    sum: Tensor
    unit: Unit
    coefficient: float = 1.0


class Ratio(NamedTuple):
    """A metric that is one sum over another, when both have been added up over all batches: an F1, for one."""

    sum: Tensor
    of: Tensor


class Means:
    """Metrics over several batches."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, Term | Ratio], batch: Batch) -> None:
        """Those of one batch."""
        for name, metric in metrics.items():
            of = float(metric.of) if isinstance(metric, Ratio) else batch.count(metric.unit)
            above, below = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = above + float(metric.sum), below + of

    def values(self) -> dict[str, float]:
        """Each metric over all batches; 0 where there was nothing to count."""
        return {name: above / max(below, 1e-12) for name, (above, below) in self.sums.items()}


@dataclass(frozen=True)
class Loss:
    """What an objective returns: the terms to minimise, and metrics to report (accuracy, margins …)."""

    terms: Mapping[str, Term]
    metrics: Mapping[str, Term | Ratio] = field(default_factory=dict)

    def total(self, counts: Mapping[Unit, float]) -> Tensor:
        """This batch's share of the update's loss: each sum over the count of the *whole* update.

        Because sums and counts are additive, neither micro-batches nor ranks can change the result.
        """
        shares = [term.coefficient * term.sum / max(counts[term.unit], 1e-12) for term in self.terms.values()]
        return sum(shares[1:], start=shares[0])
