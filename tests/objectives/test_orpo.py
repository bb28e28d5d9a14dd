"""ORPO: the likelihood of chosen answers and the odds ratio, which stays finite where an answer is certain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_batches import PAIRS, batch_of, encode, loss_and_metrics

from bottega.batch import count_units
from bottega.objectives.orpo import Orpo, _log1mexp


def test_the_loss_is_of_likelihoods_and_odds() -> None:
    objective, means = Orpo(weight=0.3), np.array([-0.5, -1.0, -1.0, -0.25])
    batch = batch_of(objective, PAIRS)
    lengths = batch.sum_rows(torch.ones(len(batch.at))).numpy()
    loss, metrics = loss_and_metrics(objective, batch, logp=torch.from_numpy(means)[batch.row])
    likelihood = -(lengths * means)[0::2].sum() / lengths[0::2].sum()
    log_odds = np.log(np.exp(means) / (1 - np.exp(means)))
    margins = log_odds[0::2] - log_odds[1::2]
    assert loss == pytest.approx(likelihood + 0.3 * np.log1p(np.exp(-margins)).mean())
    assert metrics == pytest.approx({"accuracy": 0.5, "margin": margins.mean()})


def test_the_prompt_may_be_predicted_but_is_not_in_the_odds() -> None:
    (answer, _), (whole, rejected) = (encode(Orpo(prompt=prompt), PAIRS)[0].rows for prompt in (False, True))
    assert whole.at.tolist() == list(range(len(whole.tokens) - 1))
    assert whole.at[whole.columns["answer"] > 0].tolist() == answer.at.tolist()
    assert set(whole.columns["learned"]) == {1}
    assert set(rejected.columns["learned"]) == {0}
    assert len(rejected.at) < len(rejected.tokens) - 1, "of a rejected answer the prompt is not predicted"


def test_a_certain_answer_has_a_finite_loss_and_gradient() -> None:
    objective = Orpo()
    batch = batch_of(objective, PAIRS)
    logp = torch.zeros(len(batch.at), requires_grad=True)
    loss = objective.loss({"logp": logp}, batch).total(count_units([batch]))
    (gradient,) = torch.autograd.grad(loss, logp)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_log1mexp_is_exact_near_0_and_far_from_it() -> None:
    x = torch.tensor([-1e-12, -0.1, -0.6931, -0.6932, -2.0, -40.0], dtype=torch.float64, requires_grad=True)
    found = _log1mexp(x)
    exact = [np.log(1e-12), *np.log1p(-np.exp([-0.1, -0.6931, -0.6932, -2.0, -40.0]))]
    assert found.tolist() == pytest.approx(exact, rel=1e-9, abs=0)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert slope.tolist() == pytest.approx((-1 / np.expm1(-x.detach().numpy())).tolist(), rel=1e-9)
