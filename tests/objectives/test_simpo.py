"""SimPO: margins of mean log-probabilities, by which longer answers have no advantage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_batches import PAIRS, batch_of, loss_and_metrics

from bottega.objectives.simpo import Simpo


def evaluate(means: list[float], **options: Any) -> tuple[float, Any]:
    """Of answers whose tokens all have the log-probability given for their row."""
    objective = Simpo(**options)
    batch = batch_of(objective, PAIRS)
    return loss_and_metrics(objective, batch, logp=torch.tensor(means, dtype=torch.float64)[batch.row])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_known_margins(smoothing: float) -> None:
    loss, metrics = evaluate([-1.0, -0.5, -0.5, -2.0], beta=3, gamma=0.5, label_smoothing=smoothing)
    inside = np.array([-1.5 - 0.5, 4.5 - 0.5])
    losses = (1 - smoothing) * np.log1p(np.exp(-inside)) + smoothing * np.log1p(np.exp(inside))
    assert loss == pytest.approx(losses.mean())
    assert metrics == pytest.approx({"accuracy": 0.5, "margin": (-1.5 + 4.5) / 2}), "the metrics leave gamma out"


def test_a_longer_answer_has_no_advantage() -> None:
    loss, metrics = evaluate([-1.0, -1.0, -1.0, -1.0], gamma=0)
    assert loss == pytest.approx(np.log(2))
    assert metrics == pytest.approx({"accuracy": 0.0, "margin": 0.0})


def test_no_reference_is_needed() -> None:
    assert Simpo().needs == ()
