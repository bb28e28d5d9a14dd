"""The methods of fine-tuning that the API has."""

from __future__ import annotations

from bottega.server.jobs.methods import DEFAULT, METHODS


def test_each_method_has_an_objective_and_a_format() -> None:
    assert METHODS[DEFAULT].options({}) == {"kind": "sft"}
    assert METHODS["dpo"].options({"beta": 0.2}) == {"kind": "dpo", "beta": 0.2}
    assert len({method.format for method in METHODS.values()}) == len(METHODS)
