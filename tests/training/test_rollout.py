"""Answers sampled from the policy: kept for the updates of a round, scored, logged, and saved with a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bottega.batch import Example
from bottega.errors import CheckpointError
from bottega.training import rollout
from bottega.training.rollout import FILE, Rollouts, UpdateExamples
from bottega.training.setup import Run


def rollouts(run: Run) -> Rollouts:
    objective = run.recipe.objective.on_policy
    assert objective is not None
    return Rollouts(objective, run.engine, run.data.codec, 1000, packed=run.packed)


def prompts(run: Run) -> list[Example]:
    return run.sampler.examples[:2]


def assert_equal(one: UpdateExamples, other: UpdateExamples) -> None:
    assert one.metrics == other.metrics
    assert one.dropout_step == other.dropout_step
    for first, second in zip(one.examples, other.examples, strict=True):
        assert first.id == second.id
        assert np.array_equal(first.rows[0].tokens, second.rows[0].tokens)
        for name, column in first.rows[0].columns.items():
            assert np.array_equal(column, second.rows[0].columns[name]), name


def test_a_round_of_answers_serves_its_updates(on_policy: Run) -> None:
    made = rollouts(on_policy)
    first, second, third = (made.sample_update(step, prompts(on_policy)) for step in (1, 2, 3))
    assert_equal(second, first)
    assert (first.dropout_step, third.dropout_step) == (0, 1)
    assert first.answered is not None
    assert second.answered is None
    assert third.answered is not None
    assert third.answered.answers != first.answered.answers, "sampled anew, with another seed"
    assert {"old", "advantage"} <= set(first.examples[0].rows[0].columns)
    assert_equal(rollouts(on_policy).sample_update(1, prompts(on_policy)), first)


def test_what_is_reported_of_a_round(on_policy: Run) -> None:
    found = rollouts(on_policy).sample_update(1, prompts(on_policy))
    answered, metrics = found.answered, found.metrics
    assert answered is not None
    assert answered.where == prompts(on_policy)[0].id
    assert answered.prompt.endswith("the cat sat")
    assert answered.rewards == [float(any(letter in "abcdefghijklm" for letter in text)) for text in answered.answers]
    assert len(answered.answers) == 3
    assert 0 <= metrics["reward"] <= 1
    assert {"reward_spread", "even_groups", "answer_tokens", "unfinished"} <= set(metrics)


def test_an_answer_at_the_limit_did_not_end_by_itself(on_policy: Run) -> None:
    made = rollouts(on_policy)
    made.objective = made.objective.model_copy(update={"tokens": 1, "unfinished": "skip"})
    found = made.sample_update(1, prompts(on_policy))
    assert found.metrics["unfinished"] == 1.0
    assert not any(example.rows[0].columns["advantage"].any() for example in found.examples), "all of them are skipped"


def test_long_texts_are_cut_in_events(on_policy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "MAX_EVENT_CHARACTERS", 3)
    answered = rollouts(on_policy).sample_update(1, prompts(on_policy)).answered
    assert answered is not None
    assert answered.prompt == "sat", "the end of the prompt"
    assert max(map(len, answered.answers)) <= 3


def test_a_round_is_saved_while_an_update_still_needs_it(on_policy: Run, tmp_path: Path) -> None:
    made = rollouts(on_policy)
    made.save(tmp_path, 0)
    assert not (tmp_path / FILE).exists(), "nothing was sampled yet"
    made.sample_update(1, prompts(on_policy))
    made.save(tmp_path, 2)
    assert not (tmp_path / FILE).exists(), "the next update samples anew"
    made.save(tmp_path, 1)
    again = rollouts(on_policy)
    again.load(tmp_path, 1)
    assert_equal(again.sample_update(2, prompts(on_policy)), made.sample_update(2, prompts(on_policy)))
    first = (tmp_path / FILE).read_bytes()
    again.save(tmp_path, 1)
    assert (tmp_path / FILE).read_bytes() == first, "equal rounds are equal files"


def test_a_checkpoint_without_its_round_is_refused(on_policy: Run, tmp_path: Path) -> None:
    rollouts(on_policy).load(tmp_path, 2)
    with pytest.raises(CheckpointError, match=f"{FILE} is missing") as caught:
        rollouts(on_policy).load(tmp_path, 1)
    assert caught.value.where == str(tmp_path)


def test_validations_with_one_seed_are_equal(on_policy: Run) -> None:
    made = rollouts(on_policy)
    reward, metrics = made.validate(prompts(on_policy), 5)
    assert made.validate(prompts(on_policy), 5) == (reward, metrics)
    assert metrics["reward"] == reward
    assert "reward_spread" not in metrics, "one answer to each prompt has no spread"
