"""CPO: the margin of whole answers, and the likelihood of the chosen ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_batches import PAIRS, batch_of, encode, loss_and_metrics, token_values

from bottega.objectives.cpo import Cpo

# By answer, so margins of -2 and 6.
LOGP = [-6.0, -4.0, -3.0, -9.0]


def evaluate(**options: Any) -> tuple[float, Any]:
    objective = Cpo(**options)
    batch = batch_of(objective, PAIRS)
    return loss_and_metrics(objective, batch, logp=token_values(batch, LOGP))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_of_margins_and_of_chosen_answers(smoothing: float) -> None:
    margins = 0.5 * np.array([-2, 6])
    pairs = (1 - smoothing) * np.log1p(np.exp(-margins)) + smoothing * np.log1p(np.exp(margins))
    loss, metrics = evaluate(beta=0.5, weight=0.3, label_smoothing=smoothing)
    assert loss == pytest.approx(pairs.mean() + 0.3 * (6 + 3) / 2)
    assert metrics == pytest.approx({"accuracy": 0.5, "margin": 1.0})


def test_the_likelihood_may_be_a_mean_over_tokens() -> None:
    tokens = sum(len(example.rows[0].at) for example in encode(Cpo(), PAIRS))
    assert tokens > 2
    likelihood = evaluate(likelihood="token")[0] - evaluate(weight=0)[0]
    assert likelihood == pytest.approx((6 + 3) / tokens)


def test_chosen_answers_are_learned_and_rejected_ones_are_not() -> None:
    chosen, rejected = encode(Cpo(), PAIRS)[0].rows
    assert set(chosen.columns["learned"]) == {1}
    assert set(rejected.columns["learned"]) == {0}
    assert not Cpo().compares_with_reference
