"""DPO: the loss of known log-ratios in each form, and options that contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_batches import PAIRS, batch_of, encode, loss_and_metrics, token_values

from bottega.objectives import Score
from bottega.objectives.dpo import Dpo

# By answer: log-ratios of -1, 1, 2 and -2, so margins of -2 and 4.
POLICY, REFERENCE = [-6.0, -4.0, -3.0, -9.0], [-5.0, -5.0, -5.0, -7.0]


def evaluate(policy: list[float] = POLICY, **options: Any) -> tuple[float, Mapping[str, float]]:
    objective = Dpo(**options)
    batch = batch_of(objective, PAIRS)
    batch = batch.with_columns(reference=token_values(batch, REFERENCE))
    return loss_and_metrics(objective, batch, logp=token_values(batch, policy))


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


@pytest.mark.parametrize(
    ("options", "losses"),
    [
        ({}, [softplus(0.2), softplus(-0.4)]),
        ({"beta": 0.5}, [softplus(1), softplus(-2)]),
        (
            {"label_smoothing": 0.25},
            [0.75 * softplus(0.2) + 0.25 * softplus(-0.2), 0.75 * softplus(-0.4) + 0.25 * softplus(0.4)],
        ),
        (
            {"form": "robust", "label_smoothing": 0.25},
            [1.5 * softplus(0.2) - 0.5 * softplus(-0.2), 1.5 * softplus(-0.4) - 0.5 * softplus(0.4)],
        ),
        ({"form": "ipo", "beta": 0.25}, [(-2 - 2) ** 2, (4 - 2) ** 2]),
    ],
)
def test_the_loss_of_known_margins(options: dict[str, Any], losses: list[float]) -> None:
    assert evaluate(**options)[0] == pytest.approx(np.mean(losses))


def test_metrics_are_of_the_implicit_rewards() -> None:
    assert evaluate(beta=0.5)[1] == pytest.approx({"accuracy": 0.5, "margin": 0.5 * (-2 + 4) / 2})


def test_the_policy_that_is_the_reference_has_a_loss_of_log_2() -> None:
    assert evaluate(REFERENCE) == (pytest.approx(np.log(2)), {"accuracy": 0.0, "margin": 0.0})


def test_normalised_log_ratios_are_means_over_tokens() -> None:
    batch = batch_of(Dpo(), PAIRS)
    lengths = batch.sum_rows(torch.ones(len(batch.at))).tolist()
    assert len(set(lengths)) > 2
    # Means of -1, 1, 2 and -2, as the sums were above.
    means = [(one - other) * length for one, other, length in zip(POLICY, REFERENCE, lengths, strict=True)]
    policy = [other + mean for other, mean in zip(REFERENCE, means, strict=True)]
    assert evaluate(policy, normalised=True)[0] == pytest.approx(evaluate()[0])


def test_a_pair_is_two_rows_with_one_prompt_the_chosen_answer_first() -> None:
    chosen, rejected = encode(Dpo(), PAIRS)[0].rows
    prompt = chosen.at[0] + 1
    assert chosen.tokens[:prompt].tolist() == rejected.tokens[:prompt].tolist()
    assert len(chosen.at) > len(rejected.at)


def test_it_compares_with_the_reference() -> None:
    assert Dpo().needs == (Score("reference", by="reference"),)
    assert Dpo().compares_with_reference


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"form": "ipo", "label_smoothing": 0.1}, "ipo has none"),
        ({"form": "robust"}, "robust needs the fraction"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Dpo(**options)
