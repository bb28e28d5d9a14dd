"""The cost of an answer."""

from __future__ import annotations

from bottega.evaluation.cost import Cost


def test_a_cost_is_plain_data_with_its_means() -> None:
    assert Cost(3, 12.5, 4.0, 0.25).document() == {"requests": 3, "read": 12.5, "written": 4.0, "seconds": 0.25}
