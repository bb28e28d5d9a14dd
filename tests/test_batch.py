"""Rows, batches joined and counted, and losses as sums over the units of a whole update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bottega.batch import Batch, Example, Loss, MetricMeans, Nodes, Ratio, Row, Term, count_units, join_batches
from bottega.packing import pack


def make_row(tokens: list[int], at: list[int] | None = None, **more: Any) -> Row:
    """A row in which each token, or those at the given positions, predict the next number."""
    ids, positions = np.array(tokens), np.arange(len(tokens)) if at is None else np.array(at)
    return Row(ids, positions, ids[positions] + 1, np.ones(len(positions), np.float32), **more)


def batch_of(*examples: list[Row], first: int = 0) -> Batch:
    return pack([Example(f"line {first + number}", tuple(rows)) for number, rows in enumerate(examples)])


def test_a_causal_row_ends_at_its_last_prediction() -> None:
    tokens = [5, 6, 7, 8, 9]
    assert make_row(tokens, [1, 2]).computed_tokens.tolist() == [5, 6, 7]
    assert make_row(tokens, [1, 2], both_ways=True).computed_tokens.tolist() == tokens


def test_a_prompt_is_what_is_generated_from() -> None:
    assert make_row([5, 6]).prompt == [5, 6]
    read = make_row([5, 6], source=np.array([7, 8, 9]))
    assert (read.prompt, read.source_length, make_row([5]).source_length) == ([7, 8, 9], 3, 0)
    assert Example("line 1", (read, make_row([1]))).tokens == 2 + 3 + 1


def test_every_token_but_the_first_is_predicted() -> None:
    row = make_row([5, 6, 7], [1], source=np.array([4])).predict_every_token()
    assert (row.at.tolist(), row.label.tolist(), row.weight.tolist()) == ([0, 1], [6, 7], [1, 1])
    assert row.source is not None


def test_predictions_without_weight_are_not_in_the_loss() -> None:
    row = make_row([5, 6, 7])
    row.weight[1] = 0
    assert row.loss_count == 2


def test_columns_have_a_value_for_each_prediction() -> None:
    row = make_row([5, 6, 7], [0, 2]).with_columns(first=1, second=[2, 3]).with_columns(first=4)
    assert {name: column.tolist() for name, column in row.columns.items()} == {"first": [4, 4], "second": [2, 3]}
    assert {column.dtype for column in row.columns.values()} == {np.dtype(np.float32)}


def test_the_path_to_a_node() -> None:
    #   0: [0, 1, 2] ── 1: [3, 4] ── 2: [5],  3: [6, 7]
    nodes = Nodes(np.array([0, 3, 5, 6]), np.array([3, 5, 6, 8]), np.array([-1, 0, 1, 0]))
    assert nodes.path(2).tolist() == [0, 1, 2, 3, 4, 5]
    assert nodes.path(3).tolist() == [0, 1, 2, 6, 7]
    assert len(nodes) == 4


def test_sums_and_means_of_rows_and_examples() -> None:
    batch = batch_of([make_row([1, 2]), make_row([3])], [make_row([4, 5, 6])])
    values = torch.tensor([1.0, 3.0, 5.0, 6.0, 7.0, 11.0])
    assert batch.sum_rows(values).tolist() == [4, 5, 24]
    assert batch.mean_rows(values).tolist() == [2, 5, 8]
    assert batch.mean_rows(torch.stack([values, 2 * values], 1)).tolist() == [[2, 4], [5, 10], [8, 16]]
    assert batch.sum_examples(batch.sum_rows(values)).tolist() == [9, 24]


def test_counts_of_units() -> None:
    batch = batch_of([make_row([1, 2]), make_row([3])], [make_row([4, 5, 6])])
    assert [batch.count(unit) for unit in ("token", "row", "example")] == [6, 3, 2]
    assert batch.sum_examples(batch.sum_rows(batch.weight)).tolist() == [3, 3]


def test_a_column_is_a_unit_of_what_it_marks() -> None:
    batch = batch_of([make_row([1, 2]).with_columns(learned=1), make_row([3]).with_columns(learned=0)])
    assert batch.count("learned") == 2
    with pytest.raises(KeyError):
        batch.count("elsewhere")
    assert batch.with_columns(more=torch.ones(3)).count("more") == 3


def test_units_are_counted_over_the_whole_update() -> None:
    parts = [batch_of([make_row([1, 2])]), batch_of([make_row([3]), make_row([4])], [make_row([5])])]
    assert count_units(parts) == {"token": 5, "row": 4, "example": 3}
    assert count_units([]) == {"token": 0, "row": 0, "example": 0}


def test_joined_batches_are_one_over_all_their_predictions() -> None:
    groups = [
        [[make_row([1, 2]).with_columns(mark=1), make_row([3]).with_columns(mark=2)]],
        [[make_row([4, 5, 6]).with_columns(mark=3)], [make_row([7]).with_columns(mark=4)]],
    ]
    parts = [batch_of(*groups[0]), batch_of(*groups[1], first=1)]
    joined, whole = join_batches(parts), batch_of(*groups[0], *groups[1])
    assert joined.ids == whole.ids == ("line 0", "line 1", "line 2")
    for name in ("label", "weight", "row", "example"):
        assert getattr(joined, name).tolist() == getattr(whole, name).tolist(), name
    assert joined.columns["mark"].tolist() == [1, 1, 2, 3, 3, 3, 4]
    assert joined.tokens_real == whole.tokens_real
    assert count_units([joined]) == count_units(parts)
    # Side by side, each tree as it was.
    size = len(parts[0].tokens)
    assert joined.tokens.tolist() == [*parts[0].tokens.tolist(), *parts[1].tokens.tolist()]
    for name in ("first", "last", "at"):
        moved = [value + size for value in getattr(parts[1], name).tolist()]
        assert getattr(joined, name).tolist() == [*getattr(parts[0], name).tolist(), *moved], name
    paths = [joined.nodes.path(node).tolist() for node in range(len(joined.nodes))]
    firsts = zip(parts, (0, size), strict=True)
    own = [part.nodes.path(node) + first for part, first in firsts for node in range(len(part.nodes))]
    assert paths == [path.tolist() for path in own]
    assert join_batches(parts[:1]) is parts[0]


def test_a_batch_is_moved_with_all_its_tensors() -> None:
    batch = batch_of([make_row([1, 2], source=np.array([7, 8])).with_columns(mark=1)]).to("meta")
    assert batch.source is not None
    tensors = [value for part in (batch, batch.source) for value in vars(part).values() if torch.is_tensor(value)]
    assert len(tensors) == 9 + 4
    assert {tensor.device.type for tensor in (*tensors, *batch.columns.values())} == {"meta"}


def test_the_loss_of_an_update_is_the_sum_of_its_batches() -> None:
    """A micro-batch with fewer tokens does not weigh as much as a full one."""
    parts = [batch_of([make_row([1, 2, 3])]), batch_of([make_row([4])])]
    losses = [
        Loss({"nll": Term(torch.tensor(total), "token"), "aux": Term(torch.tensor(1.0), "example", 0.5)})
        for total in (6.0, 2.0)
    ]
    counts = count_units(parts)
    assert sum(float(loss.total(counts)) for loss in losses) == (6 + 2) / 4 + 0.5 * (1 + 1) / 2


def test_a_mean_over_nothing_is_0() -> None:
    loss = Loss({"nll": Term(torch.tensor(0.0), "token")})
    assert float(loss.total({"token": 0.0})) == 0.0


def test_means_of_metrics_are_over_all_batches() -> None:
    means = MetricMeans()
    for batch, right, found in ((batch_of([make_row([1, 2, 3])]), 3.0, 1.0), (batch_of([make_row([4])]), 0.0, 0.0)):
        ratio = Ratio(torch.tensor(2 * found), torch.tensor(2 * found + 1))
        means.add({"accuracy": Term(torch.tensor(right), "token"), "f1": ratio}, batch)
    means.add({"rare": Ratio(torch.tensor(0.0), torch.tensor(0.0))}, batch)
    assert means.values() == pytest.approx({"accuracy": 3 / 4, "f1": 2 / 4, "rare": 0.0})
