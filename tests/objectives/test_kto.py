"""KTO: the loss of good and bad answers, and mismatched pairs, as far as there is room for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_batches import PAIRS, batch_of, encode, loss_and_metrics, token_values
from worlds import tokenizer

from bottega.batch import Example
from bottega.objectives.kto import Kto, mismatched_examples
from bottega.records import Unpaired
from bottega.tokenization.codec import Codec
from making import WORDS

LONG = " ".join(WORDS)


def test_a_prompt_that_fills_the_row_has_no_mismatched_pair() -> None:
    prompt = len(Codec(tokenizer(), max_length=500, too_long="truncate").encode_prompt(LONG))
    made = Codec(tokenizer(), max_length=prompt + 1, too_long="truncate")
    rows = [Unpaired("1", LONG, " sat on", True), Unpaired("2", "the cat", " ran under", False)]
    examples = [Example(str(place), row) for place, one in enumerate(rows) for row in Kto().rows(one, made)]
    filled = int(examples[0].rows[0].at[0]) + 1
    full = mismatched_examples(examples, filled)
    assert [example.id for example in full] == ["1"], "what is behind the short prompt"
    both = mismatched_examples(examples, 500)
    assert [example.id for example in both] == ["0", "1"]
    (probe,) = both[1].rows
    assert np.array_equal(probe.tokens[:3], examples[1].rows[0].tokens[:3])


def test_a_row_alone_has_no_mismatched_pair() -> None:
    (example,) = encode(Kto(), [Unpaired("1", "the cat", " sat on", True)])
    assert mismatched_examples([example], 100) == []


def evaluate(statistics: dict[str, float], **options: Any) -> tuple[float, Any]:
    """Of a good answer with a log-ratio of 1 and a bad one with a log-ratio of 3."""
    objective = Kto(**options)
    batch = batch_of(objective, [Unpaired("1", "the cat", " sat on", True), Unpaired("2", "red", " ran", False)])
    batch = replace(batch.with_columns(reference=token_values(batch, [-4.0, -8.0])), statistics=statistics)
    return loss_and_metrics(objective, batch, logp=token_values(batch, [-3.0, -5.0]))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize(("raised", "kl"), [(2.0, 2.0), (-2.0, 0.0), (None, 0.0)])
def test_the_loss_of_known_log_ratios(raised: float | None, kl: float) -> None:
    """The KL divergence is estimated to be at least 0, and 0 without mismatched pairs."""
    statistics = {} if raised is None else {"raised": raised}
    loss, metrics = evaluate(statistics, beta=0.5, desirable=1.5, undesirable=0.8)
    assert loss == pytest.approx((1.5 * sigmoid(-0.5 * (1 - kl)) + 0.8 * sigmoid(-0.5 * (kl - 3))) / 2)
    assert metrics == pytest.approx({"accuracy": 0.5 if kl < 1 else 0.0, "apart": kl})


def test_both_answers_of_a_pair_are_learned_each_by_itself() -> None:
    examples = encode(Kto(), PAIRS[:1])
    assert [example.rows[0].columns["desirable"].tolist() for example in examples] == [[1.0], [0.0]]
