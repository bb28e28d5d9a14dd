"""Token rows, examples, the batch that every objective computes on, and losses as sums.

A batch is one flat sequence of tokens, the depth-first layout of a prefix tree: a prefix that several rows share is
computed once. Two integers per token replace the attention mask: token k is visible to query q exactly when
`first[k] <= q < last[k]`. A prediction is a pair: the hidden state at position `at[n]` of the flat sequence is scored
against `label[n]`.

Axis letters, used in every shape comment of the package:
    T  tokens of the flat sequence, after sharing      N  predictions
    S  tokens of the encoder's flat sequence           R  rows
    V  vocabulary                                      E  examples
    H  hidden width                                    C  classes
    M  nodes of the prefix tree                        t, n, s  tokens, predictions, source tokens of one row

Building batches is `bottega.packing`. This module does not import torch, so that objectives, and with them a recipe,
load without it.
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
# What a mean is taken over: `token` (the sum of prediction weights), `row`, `example`, or the name of a column, whose
# values are added up.
Unit = str
UNITS: tuple[Unit, ...] = ("token", "row", "example")

# Tensor fields of a batch, by axis.
TOKEN_FIELDS = ("tokens", "position", "first", "last")  # [T]
PREDICTION_FIELDS = ("at", "label", "weight")  # [N]
# Fields that hold indices of rows or examples: joining batches has to shift them.
INDEX_FIELDS = ("row", "example")  # [N], [R]

# Keeps a mean over nothing at 0 instead of 0 / 0.
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Row:
    """A token row: one sequence as the model would see it alone, and its predictions.

    tokens     [t] token ids
    at         [n] positions in `tokens` whose hidden states are scored, ascending
    label      [n] the expected token id, class or number
    weight     [n] weight of each prediction in the loss
    both_ways  attention is bidirectional (encoders) instead of causal
    source     [s] the encoder's input in an encoder–decoder; every token of the row attends to all of it
    columns    further values by name: [n] per prediction, or [1] for the row
    """

    tokens: Ints
    at: Ints
    label: NDArray[Any]
    weight: NDArray[np.float32]
    both_ways: bool = False
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    source: Ints | None = None

    @property
    def computed_tokens(self) -> Ints:
        """The tokens a forward pass needs; a causal row ends at its last prediction."""
        # Behind the last prediction of a causal row nothing is scored, and no earlier token attends to it.
        return self.tokens if self.both_ways else self.tokens[: int(self.at[-1]) + 1]

    @property
    def prompt(self) -> list[int]:
        """The tokens to generate from: the encoder's input if there is one, otherwise all tokens."""
        tokens: list[int] = (self.tokens if self.source is None else self.source).tolist()
        return tokens

    @property
    def loss_count(self) -> int:
        """The number of predictions with a nonzero weight."""
        return int(np.count_nonzero(self.weight))

    @property
    def source_length(self) -> int:
        """The number of encoder tokens, 0 without an encoder."""
        return 0 if self.source is None else len(self.source)

    def predict_every_token(self) -> Row:
        """The same tokens, with a prediction of weight 1 for each but the first."""
        at = np.arange(len(self.tokens) - 1)  # [t - 1]
        ones = np.ones(len(at), np.float32)
        return Row(self.tokens, at, self.tokens[1:], ones, self.both_ways, source=self.source)

    def with_columns(self, **columns: Any) -> Row:
        """The row with these float32 columns added; a scalar applies to each prediction."""
        # All of shape [n]: columns of different rows are concatenated, and a batch needs one length for each name.
        full = {name: np.broadcast_to(np.float32(value), self.at.shape) for name, value in columns.items()}
        return replace(self, columns={**self.columns, **full})


@dataclass(frozen=True, slots=True)
class Example:
    """The unit that `optim.examples` counts: one row in SFT, two in a preference pair, one prompt in GRPO.

    about  further data that the objective attaches, such as the record of a prompt
    """

    id: str
    rows: tuple[Row, ...]
    about: Any = None

    @property
    def tokens(self) -> int:
        """The number of tokens of all rows, encoder inputs included, without any sharing."""
        return sum(len(row.tokens) + row.source_length for row in self.rows)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The M nodes of a prefix tree in depth-first order: a parent comes before its children.

    start end  [M] node m holds the flat tokens `start[m]:end[m]`
    parent     [M] the node whose tokens precede them, -1 for a root
    """

    start: Ints
    end: Ints
    parent: Ints

    def __len__(self) -> int:
        return len(self.start)

    def path(self, node: int) -> Ints:
        """Flat indices of all tokens from the root to the end of `node`."""
        spans = []
        while node >= 0:
            spans.append(np.arange(self.start[node], self.end[node]))
            node = int(self.parent[node])
        return np.concatenate(spans[::-1])


@dataclass(frozen=True)
class EncoderInput:
    """The encoder's side of a batch: source texts one after the other, each attending to itself alone.

    tokens position first last   [S], as in `Batch`
    nodes                        one node per text, without parents
    text_of_node                 [M] for each node of the batch, the index of the text its tokens attend to
    """

    tokens: Tensor
    position: Tensor
    first: Tensor
    last: Tensor
    nodes: Nodes
    text_of_node: Ints

    def to(self, device: str) -> EncoderInput:
        """The same input with its tensors on `device`."""
        tensors: dict[str, Any] = {name: _move(getattr(self, name), device) for name in TOKEN_FIELDS}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Batch:
    """Many token rows as one flat prefix tree; built by `packing.pack`.

    tokens position first last   [T]; `position` is the depth along the token's own path
    at label weight row          [N]; `row[n]` is the row of prediction n
    example                      [R]; the example of each row
    columns                      values by name, each [N] or [R]
    ids                          [E] names of the examples (`file:line`)
    tokens_real                  tokens of all rows, without sharing or trimming
    statistics                   means over the whole update that the objective's `needs` ask for, by name
    source                       the encoder's input, if the model has an encoder
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
    def computed_token_count(self) -> int:
        """The number of tokens a forward pass computes: T + S."""
        return len(self.tokens) + (0 if self.source is None else len(self.source.tokens))

    def sum_rows(self, values: Tensor) -> Tensor:
        """[N, …] → [R, …]: each row's sum over its predictions."""
        return values.new_zeros(len(self.example), *values.shape[1:]).index_add(0, self.row, values)

    def mean_rows(self, values: Tensor) -> Tensor:
        """[N, …] → [R, …]: each row's mean over its predictions, whatever their weight."""
        size = self.sum_rows(values.new_ones(len(values)))  # [R]
        # [R, 1, …], to divide values with any number of further axes.
        return self.sum_rows(values) / size.view(-1, *[1] * (values.dim() - 1))

    def sum_examples(self, values: Tensor) -> Tensor:
        """[R] → [E]: each example's sum over its rows."""
        return values.new_zeros(len(self.ids)).index_add(0, self.example, values)

    def count(self, unit: Unit) -> float:
        """How many of `unit` this batch holds: the denominator of a mean over it."""
        # A column as a unit: its sum counts what it marks, such as the rows that have an answer.
        if unit not in UNITS:
            return float(self.columns[unit].sum())
        if unit == "token":
            return float(self.weight.sum())
        return float(len(self.example) if unit == "row" else len(self.ids))

    def with_columns(self, **columns: Tensor) -> Batch:
        """The batch with these columns added, each [N] or [R]."""
        return replace(self, columns={**self.columns, **columns})

    def to(self, device: str) -> Batch:
        """The same batch with its tensors on `device`."""
        names = (*TOKEN_FIELDS, *PREDICTION_FIELDS, *INDEX_FIELDS)
        tensors: dict[str, Any] = {name: _move(getattr(self, name), device) for name in names}
        columns = {name: _move(column, device) for name, column in self.columns.items()}
        source = None if self.source is None else self.source.to(device)
        return replace(self, columns=columns, source=source, **tensors)


def _move(tensor: Tensor, device: str) -> Tensor:
    # A non-blocking copy to the CPU returns before the data is there, and nothing would wait for it.
    return tensor.to(device, non_blocking=device != "cpu")


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Several batches as one: their trees side by side, and their predictions, rows and examples one after the other.

    Scores of the batches, concatenated, are the scores of the result.
    """
    if len(batches) == 1:
        return batches[0]
    from torch import cat

    def joined(name: str, counts: Sequence[int] = ()) -> Tensor:
        """One field of all batches; it points to what `counts` counts in each, if they are given."""
        offsets = accumulate(counts, initial=0) if counts else [0] * len(batches)
        return cat([getattr(batch, name) + offset for batch, offset in zip(batches, offsets, strict=False)])

    tokens = [len(batch.tokens) for batch in batches]
    sources = [batch.source for batch in batches if batch.source is not None]
    own: dict[str, Any] = {name: joined(name) for name in ("tokens", "position", "label", "weight")}
    own |= {name: joined(name, tokens) for name in ("first", "last", "at")}
    return replace(
        batches[0],
        **own,
        row=joined("row", [len(batch.example) for batch in batches]),
        example=joined("example", [len(batch.ids) for batch in batches]),
        columns={name: cat([batch.columns[name] for batch in batches]) for name in batches[0].columns},
        ids=tuple(name for batch in batches for name in batch.ids),
        nodes=join_nodes([batch.nodes for batch in batches], tokens),
        tokens_real=sum(batch.tokens_real for batch in batches),
        source=_join_sources(sources) if sources else None,
    )


def join_nodes(trees: Sequence[Nodes], tokens: Sequence[int]) -> Nodes:
    """Trees side by side; `tokens` is how many the flat sequence of each has."""
    starts = list(accumulate(tokens, initial=0))
    firsts = list(accumulate((len(tree) for tree in trees), initial=0))
    places = list(zip(trees, starts, firsts, strict=False))
    return Nodes(
        np.concatenate([tree.start + start for tree, start, _ in places]),
        np.concatenate([tree.end + start for tree, start, _ in places]),
        np.concatenate([np.where(tree.parent < 0, -1, tree.parent + first) for tree, _, first in places]),
    )


def _join_sources(sources: Sequence[EncoderInput]) -> EncoderInput:
    from torch import cat

    tokens = [len(source.tokens) for source in sources]
    starts = list(accumulate(tokens, initial=0))
    texts = list(accumulate((len(source.nodes) for source in sources), initial=0))
    return EncoderInput(
        tokens=cat([source.tokens for source in sources]),
        position=cat([source.position for source in sources]),
        first=cat([source.first + start for source, start in zip(sources, starts, strict=False)]),
        last=cat([source.last + start for source, start in zip(sources, starts, strict=False)]),
        nodes=join_nodes([source.nodes for source in sources], tokens),
        text_of_node=np.concatenate([source.text_of_node + text for source, text in zip(sources, texts, strict=False)]),
    )


def count_units(batches: Sequence[Batch]) -> dict[Unit, float]:
    """How many of each unit, columns included, all batches of an update hold together."""
    # Counted once for the whole update: a micro-batch with fewer tokens must not weigh as much as a full one.
    units = (*UNITS, *batches[0].columns) if batches else UNITS
    return {unit: sum(batch.count(unit) for batch in batches) for unit in units}


class Term(NamedTuple):
    """A part of a loss, or a metric: a sum over the batch, to be divided by the whole update's count of `unit`."""

    sum: Tensor
    unit: Unit
    coefficient: float = 1.0


class Ratio(NamedTuple):
    """A metric that divides one sum by another once both are added up over all batches, such as an F1 score.

    sum  the numerator
    of   the denominator
    """

    sum: Tensor
    of: Tensor


class MetricMeans:
    """Means of metrics over several batches."""

    def __init__(self) -> None:
        # Numerator and denominator of each metric. They are divided at the end only: an average of the batches' means
        # would weigh batches of different sizes alike.
        self.sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, Term | Ratio], batch: Batch) -> None:
        """Add the metrics of one batch."""
        for name, metric in metrics.items():
            count = float(metric.of) if isinstance(metric, Ratio) else batch.count(metric.unit)
            numerator, denominator = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = numerator + float(metric.sum), denominator + count

    def values(self) -> dict[str, float]:
        """The mean of each metric; 0 for a metric with nothing to average over."""
        return {name: numerator / max(denominator, TINY) for name, (numerator, denominator) in self.sums.items()}


@dataclass(frozen=True)
class Loss:
    """The result of an objective: the terms to minimize, and metrics to report (accuracy, margins …)."""

    terms: Mapping[str, Term]
    metrics: Mapping[str, Term | Ratio] = field(default_factory=dict)

    def total(self, counts: Mapping[Unit, float]) -> Tensor:
        """This batch's part of the update's loss: each sum divided by the count over the *whole* update.

        Sums and counts are additive, so neither micro-batches nor ranks change the result.
        """
        parts = [term.coefficient * term.sum / max(counts[term.unit], TINY) for term in self.terms.values()]
        # Starting from a part, not from 0: with one term the loss is that tensor, not a sum with an integer.
        return sum(parts[1:], start=parts[0])
