"""What objectives on pairs share: margins of alternating rows, their loss and their metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bottega.objectives._pairs import chosen_minus_rejected, logistic_loss, pair_metrics


def test_rows_alternate_and_the_chosen_answer_is_first() -> None:
    assert chosen_minus_rejected(torch.tensor([5.0, 2.0, 1.0, 4.0])).tolist() == [3.0, -3.0]


def test_the_loss_of_a_margin() -> None:
    margins = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    assert logistic_loss(margins).tolist() == pytest.approx(np.log1p(np.exp([2.0, 0.0, -3.0])).tolist())


def test_smoothing_is_the_probability_of_a_wrong_label() -> None:
    margins = torch.tensor([-2.0, 0.5], dtype=torch.float64)
    wanted = 0.9 * logistic_loss(margins) + 0.1 * logistic_loss(-margins)
    torch.testing.assert_close(logistic_loss(margins, 0.1), wanted)


def test_a_large_negative_margin_has_a_finite_loss_and_gradient() -> None:
    margin = torch.tensor([-1000.0], requires_grad=True)
    loss = logistic_loss(margin)
    (gradient,) = torch.autograd.grad(loss.sum(), margin)
    assert (loss.item(), gradient.item()) == (1000.0, -1.0)


def test_a_pair_without_a_margin_is_not_right() -> None:
    metrics = pair_metrics(torch.tensor([2.0, 0.0, -1.0], requires_grad=True))
    assert {name: (float(term.sum), term.unit) for name, term in metrics.items()} == {
        "accuracy": (1.0, "example"),
        "margin": (1.0, "example"),
    }
    assert not metrics["margin"].sum.requires_grad
