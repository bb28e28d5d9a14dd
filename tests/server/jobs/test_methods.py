"""The methods of fine-tuning that the API has."""

from __future__ import annotations

from bottega.server.jobs.methods import DEFAULT, METHODS


def test_each_method_has_an_objective_and_a_format() -> None:
    assert METHODS[DEFAULT].options({}, None) == {"kind": "sft"}
    assert METHODS["dpo"].options({"beta": 0.2}, None) == {"kind": "dpo", "beta": 0.2}
    grader = {"type": "string_check"}
    rewarded = METHODS["reinforcement"].options({"compute_multiplier": 0.5}, grader)
    assert rewarded == {"kind": "grpo", "group": 4, "rewards": [{"kind": "grader", "grader": grader}]}
