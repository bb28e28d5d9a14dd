"""Weights of labels, as a recipe names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_batches import batch_of, loss_and_metrics, small_codec

from bottega.errors import DataError
from bottega.objectives import build_objective
from bottega.objectives.classify import Classify
from bottega.records import Labelled, Multilabelled, Record


def weights(value: Any) -> Any:
    return build_objective({"kind": "classify", "weights": value}).weights


def test_weights_are_read_by_the_names_of_labels() -> None:
    assert weights({10: 2.0, 1.0: 3, False: 4, "b": 0}) == {"10": 2, "1": 3, "false": 4, "b": 0}
    assert weights("balanced") == "balanced"
    for wrong, what in (
        ("even", "write balanced"),
        ({"a": -1}, "a number of at least 0"),
        ({"a": "x"}, "a number of at least 0"),
        (3, "balanced"),
    ):
        with pytest.raises(ValidationError, match=what):
            weights(wrong)


def test_weights_that_are_all_0_are_an_error() -> None:
    rows = [Labelled("a line 1", "t", "a"), Labelled("a line 2", "u", "b")]
    with pytest.raises(DataError, match="every label has weight 0") as caught:
        build_objective({"kind": "classify", "weights": {"a": 0, "b": 0}}).count_labels(rows)
    assert caught.value.where == "objective.weights"
    assert build_objective({"kind": "classify", "weights": {"a": 0}}).count_labels(rows) == {"a": 1, "b": 1}


RECORDS = [Labelled("line 1", "the cat", "a"), Labelled("line 2", "a dog", "b"), Labelled("line 3", "red", "b")]
LOGITS = torch.tensor([[2.0, 1.0], [0.5, 0.0], [0.0, 3.0]], dtype=torch.float64)


def evaluate(records: Sequence[Record], logits: torch.Tensor, **options: Any) -> tuple[float, Any]:
    """The loss of an update of these texts at these logits [R, C], and its metrics."""
    objective = Classify(**options)
    codec = small_codec(labels=objective.count_labels(records))
    return loss_and_metrics(objective, batch_of(objective, records, codec), logits=logits)


@pytest.mark.parametrize(
    ("given", "by_label"),
    [(None, [1, 1]), ({"a": 3.0}, [3, 1]), ("balanced", [3 / (2 * 1), 3 / (2 * 2)])],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_a_weighted_cross_entropy(given: Any, by_label: list[float], smoothing: float) -> None:
    loss, metrics = evaluate(RECORDS, LOGITS, weights=given, label_smoothing=smoothing)
    label, weight = torch.tensor([0, 1, 1]), torch.tensor(by_label, dtype=torch.float64)
    each = torch.nn.functional.cross_entropy(LOGITS, label, reduction="none", label_smoothing=smoothing)
    assert loss == pytest.approx(float((weight[label] * each).sum() / weight[label].sum()))
    assert metrics == pytest.approx({"accuracy": 2 / 3})


def test_each_of_several_labels_is_decided_by_itself() -> None:
    records = [Multilabelled("line 1", "the cat", ("a", "b")), Multilabelled("line 2", "a dog", ())]
    logits = torch.tensor([[2.0, -1.0], [0.5, -3.0]], dtype=torch.float64)
    loss, metrics = evaluate(records, logits, multi_label=True, weights={"b": 4.0})
    present = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, present, reduction="none")
    each[0, 1] *= 4  # only the texts that have the label weigh more
    assert loss == pytest.approx(float(each.mean()))
    assert metrics == pytest.approx({"exact": 0.0, "micro_f1": 2 * 1 / (2 + 2)})


def test_labels_are_counted_in_alphabetical_order() -> None:
    records = [Labelled("1", "t", "z"), *RECORDS]
    assert list(Classify().count_labels(records).items()) == [("a", 1), ("b", 2), ("z", 1)]


@pytest.mark.parametrize(
    ("records", "options", "what"),
    [
        (RECORDS[1:], {}, "every row has the label 'b'"),
        ([Multilabelled("1", "t", ())], {"multi_label": True}, "no row has a label"),
        (RECORDS, {"weights": {"c": 2.0}}, "names 'c', which no training row has"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(records: list[Record], options: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        Classify(**options).count_labels(records)
    assert Classify(multi_label=True).count_labels([Multilabelled("1", "t", ("a",))]) == {"a": 1}


def test_a_list_of_labels_needs_multi_label() -> None:
    with pytest.raises(DataError, match="the row has a list of labels") as caught:
        Classify().rows(Multilabelled("line 1", "t", ("a",)), small_codec(labels=["a", "b"]))
    assert caught.value.where == "line 1, field labels"


def test_a_trained_model_in_use_has_no_weights() -> None:
    """Its codec knows the names of labels, but not their counts."""
    ((row,),) = Classify(weights="balanced").rows(RECORDS[0], small_codec(labels=["a", "b"]))
    assert row.weight.tolist() == [1.0]
