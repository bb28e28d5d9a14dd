"""Scores of sampled answers by the policy that sampled them."""

from __future__ import annotations

import numpy as np
import torch

from bottega import objectives
from bottega.batch import Example, Row
from bottega.objectives import OnPolicy
from bottega.packing import pack
from bottega.training.old_scores import join_old_scores, score_old
from bottega.training.setup import Run


def answers(*lengths: int) -> list[Example]:
    """Examples of one row each; all tokens after the first two are predicted."""
    drawn = [np.random.default_rng(length).integers(5, 250, length) for length in lengths]
    rows = [Row(ids, np.arange(1, len(ids) - 1), ids[2:], np.ones(len(ids) - 2, np.float32)) for ids in drawn]
    return [Example(f"line {place}", (row,)) for place, row in enumerate(rows)]


def objective(passes: int) -> OnPolicy:
    made = objectives.build_objective({"kind": "grpo", "rewards": "exact", "passes": passes, "temperature": 0.7})
    assert isinstance(made, OnPolicy)
    return made


def test_scores_stand_in_the_order_of_the_examples_however_they_are_divided(on_policy: Run) -> None:
    engine, examples = on_policy.engine, answers(9, 4, 14, 5)
    for tokens in (12, 1000):
        old = score_old(engine, objective(2), examples, tokens, packed=True, dropout_step=0)
        assert set(old) == {"old"}
        parts = np.split(old["old"], np.cumsum([len(example.rows[0].at) for example in examples])[:-1])
        for example, part in zip(examples, parts, strict=True):
            alone = engine.score(pack([example]), frozenset({"logp"}), temperature=0.7)["logp"]
            torch.testing.assert_close(torch.from_numpy(part), alone, rtol=1e-4, atol=1e-4)


def test_without_a_need_nothing_is_scored_or_joined(on_policy: Run) -> None:
    examples = answers(5, 6)
    assert score_old(on_policy.engine, objective(1), examples, 100, packed=True, dropout_step=0) == {}
    assert join_old_scores(examples, {}) == examples


def test_scores_become_columns_of_their_rows() -> None:
    joined = join_old_scores(answers(5, 4), {"old": np.arange(5, dtype=np.float32), "value": np.ones(5, np.float32)})
    assert [example.id for example in joined] == ["line 0", "line 1"]
    assert [example.rows[0].columns["old"].tolist() for example in joined] == [[0, 1, 2], [3, 4]]
    assert pack(joined).columns["value"].tolist() == [1.0] * 5
