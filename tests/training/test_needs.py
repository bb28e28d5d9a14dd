"""Micro-batches with what their loss reads: reference scores as columns, and statistics over the whole update."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bottega import objectives
from bottega.batch import Batch, Example, Row, Term
from bottega.objectives import Statistic
from bottega.packing import pack
from bottega.training.needs import micro_batches, reference_scores, statistics, with_statistics
from bottega.training.setup import Run


def test_which_objectives_need_a_reference() -> None:
    assert [need.column for need in reference_scores(objectives.build_objective({"kind": "dpo"}))] == ["reference"]
    assert reference_scores(objectives.build_objective({"kind": "sft"})) == []
    clipped = objectives.build_objective({"kind": "grpo", "rewards": "exact", "passes": 2})
    assert reference_scores(clipped) == [], "the old policy is no reference"


@pytest.mark.parametrize("steps", [2, 4], ids=["computed", "cached"])
def test_micro_batches_hold_every_example_once_with_its_reference(steps: int, session: Callable[..., Run]) -> None:
    run = session(steps, optim={"steps": steps, "examples": 3, "tokens": 24})
    assert (run.reference_cache is not None) is (steps == 4)
    batches = micro_batches(run, run.sampler.examples[:])
    assert len(batches) > 1
    assert sorted(name for batch in batches for name in batch.ids) == sorted(e.id for e in run.sampler.examples)
    for batch in batches:
        # The reference is the policy as the run begins.
        own = run.engine.score(batch, frozenset({"logp"}))["logp"]
        torch.testing.assert_close(batch.columns["reference"], own, rtol=0, atol=1e-6)


def test_a_statistic_is_a_mean_over_all_batches_and_not_of_their_means() -> None:
    def example(tokens: list[int]) -> Example:
        row = Row(np.array(tokens), np.arange(0), np.arange(0), np.ones(0, np.float32))
        return Example(str(tokens), (row.predict_every_token(),))

    def terms(scores: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        return {"tokens": Term(scores["logp"].sum(), "token"), "rows": Term(scores["logp"].sum(), "row")}

    need = Statistic(lambda examples, most: [], terms)
    batches = [pack([example([5, 6, 7, 8])]), pack([example([5, 6]), example([9, 7])])]
    found = statistics(need, batches, lambda batch: {"logp": batch.tokens.new_ones(len(batch.at)) * len(batch.ids)})
    assert found == {"tokens": pytest.approx((3 * 1 + 2 * 2) / 5), "rows": pytest.approx(7 / 3)}
    assert statistics(need, [], lambda batch: {}) == {}


def test_every_batch_gets_the_statistics_of_the_update(session: Callable[..., Run]) -> None:
    run = session(2, objective={"kind": "kto"}, optim={"steps": 2, "examples": 3, "tokens": 24})
    examples = run.sampler.examples[:]
    batches = micro_batches(run, examples)
    completed = with_statistics(run, batches, examples)
    assert len(completed) == len(batches) > 1
    assert completed[0].statistics
    assert all(batch.statistics == completed[0].statistics for batch in completed)
    plain = session(2)
    batches = micro_batches(plain, plain.sampler.examples[:])
    assert with_statistics(plain, batches, plain.sampler.examples[:]) == batches, "DPO needs none"
