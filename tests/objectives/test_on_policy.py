"""Objectives that learn from sampled answers: their rows, and what they take from the rewards they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_batches import small_codec
from worlds import tokenizer

from bottega.batch import Row
from bottega.objectives import OnPolicy, RewardedAnswer, build_objective, equal_rewards
from bottega.records import Posed, Prompted, Unusable
from bottega.tokenization.codec import Codec


def made(rewards: Any, **options: Any) -> OnPolicy:
    objective = build_objective({"kind": "grpo", "rewards": rewards, **options})
    assert isinstance(objective, OnPolicy)
    return objective


def test_an_answer_is_predicted_from_the_prompts_last_token_on() -> None:
    prompt = Row(np.array([7, 8, 9]), np.array([2]), np.zeros(1, np.int64), np.ones(1, np.float32))
    row = RewardedAnswer(np.array([4, 5]), 1.0, True).row(prompt)
    assert row.tokens.tolist() == [7, 8, 9, 4, 5]
    assert (row.at.tolist(), row.label.tolist(), row.weight.tolist()) == ([2, 3], [4, 5], [1, 1])
    assert row.source is None


def test_the_prompt_of_an_encoder_decoder_is_its_source() -> None:
    codec = Codec(tokenizer(spans=True), max_length=100, too_long="error", decoder_start=2)
    ((prompt,),) = made("exact").rows(Posed("line 1", "the cat", "sat"), codec)
    row = RewardedAnswer(np.array([4, 5]), 1.0, True).row(prompt)
    assert row.source is not None
    assert row.source.tolist() == codec.encode_prompt("the cat")
    assert (row.tokens.tolist(), row.at.tolist()) == ([2, 4, 5], [0, 1])


def test_rewards_that_differ_by_rounding_are_equal() -> None:
    rewards = np.array([[0.1 + 0.2, 0.3], [1.0, 1.001], [0.0, 0.0], [-5.0, 5.0]])
    assert equal_rewards(rewards).tolist() == [True, False, True, False]


def test_a_prompt_is_encoded_with_room_for_its_answer() -> None:
    codec = small_codec(max_length=60)
    record = Posed("line 1", "the cat", "sat")
    ((row,),) = made("exact", tokens=20).rows(record, codec)
    assert row.prompt == codec.encode_prompt("the cat")
    assert made("exact").metadata(record) is record, "rewards see the whole record"


def test_a_prompt_without_reference_answer_is_for_rewards_that_compare_with_none() -> None:
    record, codec = Posed("line 1", "the cat", " "), small_codec()
    with pytest.raises(Unusable, match="no reference answer, which a reward compares with"):
        made(["exact", {"kind": "pattern", "pattern": "a"}], tokens=20).rows(record, codec)
    assert made({"kind": "pattern", "pattern": "a"}, tokens=20).rows(record, codec)


def test_it_is_evaluated_on_the_reference_answer() -> None:
    objective, codec = made("exact"), small_codec()
    ((row,),) = objective.evaluation_rows(Posed("line 1", "the cat", " sat"), codec)
    assert row.tokens.tolist() == codec.encode_answers(Prompted("line 1", "the cat", " sat")).tokens.tolist()
    assert objective.prompt_and_reference(Posed("line 1", "the cat", "sat")) == ("the cat", "sat")
    assert objective.prompt_and_reference(Posed("line 1", "the cat")) is None
    with pytest.raises(Unusable, match="no reference answer to evaluate on"):
        objective.evaluation_rows(Posed("line 1", "the cat"), codec)


def test_models_and_files_are_those_of_its_rewards(tmp_path: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(written, right): return 1.0", encoding="utf-8")
    objective = made([{"kind": "model", "model": "runs/judge"}, {"kind": "custom", "file": str(file)}, "exact"])
    assert objective.model_names == ("runs/judge",)
    assert objective.code_files == (file,)
    assert objective.on_policy is objective


def test_logits_are_divided_by_the_temperature_of_sampling() -> None:
    assert made("exact", temperature=0.7).logit_temperature == 0.7


def test_a_new_recipe_has_a_reward_that_its_rows_allow() -> None:
    assert OnPolicy.example_options(answered=True) == {"rewards": ["exact"]}
    assert OnPolicy.example_options(answered=False) == {"rewards": [{"kind": "custom", "file": "my_reward.py"}]}
