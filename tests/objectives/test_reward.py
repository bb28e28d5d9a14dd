"""Reward models: the Bradley–Terry loss of scores, with a margin and a pull towards 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_batches import PAIRS, batch_of, encode, loss_and_metrics, small_codec

from bottega.objectives.reward import Reward

# Margins of 1 and -3, sums of 3 and 3.
SCORES = torch.tensor([[2.0], [1.0], [0.0], [3.0]], dtype=torch.float64)


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_the_loss_is_that_of_bradley_and_terry(margin: float) -> None:
    objective = Reward(margin=margin)
    loss, metrics = loss_and_metrics(objective, batch_of(objective, PAIRS), logits=SCORES)
    assert loss == pytest.approx((softplus(margin - 1) + softplus(margin + 3)) / 2)
    assert metrics == pytest.approx({"accuracy": 0.5, "margin": -1.0})


def test_centering_adds_the_square_of_the_sum_of_scores() -> None:
    plain, centred = (Reward(centering=weight) for weight in (0.0, 0.1))
    batch = batch_of(plain, PAIRS)
    difference = loss_and_metrics(centred, batch, logits=SCORES)[0] - loss_and_metrics(plain, batch, logits=SCORES)[0]
    assert difference == pytest.approx(0.1 * 3**2)


def test_a_decoder_is_read_at_the_last_token_and_an_encoder_at_the_first() -> None:
    for both_ways in (False, True):
        for row in encode(Reward(), PAIRS, small_codec(both_ways=both_ways))[0].rows:
            assert row.at.tolist() == [0 if both_ways else len(row.tokens) - 1]


def test_there_is_one_score_and_a_higher_one_is_better() -> None:
    assert Reward().count_labels([]) == {"reward": 0}
    assert Reward().prediction == "preference"
