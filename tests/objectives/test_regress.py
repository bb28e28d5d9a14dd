"""Regression: the errors of numbers, and labels that are none."""

from __future__ import annotations

import pytest
import torch
from small_batches import batch_of, encode, loss_and_metrics

from bottega.errors import DataError
from bottega.objectives.regress import Regress
from bottega.records import Labelled

RECORDS = [Labelled("line 1", "the cat", "1.5"), Labelled("line 2", "a dog", "-2")]


@pytest.mark.parametrize(("error", "wanted"), [("squared", 2.125), ("absolute", 1.25), ("huber", (0.125 + 1.5) / 2)])
def test_the_loss_of_known_errors(error: str, wanted: float) -> None:
    """Deviations of one half, and of two in the other direction."""
    objective = Regress(error=error)  # type: ignore[arg-type]
    batch = batch_of(objective, RECORDS)
    loss, metrics = loss_and_metrics(objective, batch, logits=torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    assert loss == pytest.approx(wanted)
    assert metrics == pytest.approx({"mean_error": 1.25})


def test_the_huber_loss_has_a_gradient_of_at_most_1() -> None:
    objective = Regress(error="huber")
    logits = torch.tensor([[1.5], [30.0]], requires_grad=True)
    (term,) = objective.loss({"logits": logits}, batch_of(objective, RECORDS)).terms.values()
    (gradient,) = torch.autograd.grad(term.sum, logits)
    assert gradient.tolist() == [[0.0], [1.0]]


def test_labels_are_numbers() -> None:
    assert [float(example.rows[0].label[0]) for example in encode(Regress(), RECORDS)] == [1.5, -2.0]
    with pytest.raises(DataError, match="is not a number") as caught:
        encode(Regress(), [Labelled("line 3", "red", "much")])
    assert caught.value.where == "line 3, field label"


def test_there_is_one_output_which_is_a_number() -> None:
    assert Regress().count_labels(RECORDS) == {"value": 0}
    assert Regress().prediction == "number"
