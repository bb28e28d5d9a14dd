"""When a run validates, saves, and logs sampled answers."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.recipe.schema import Recipe
from bottega.training.due import Due


def due(steps: int, passes: int = 1, **sections: Any) -> Due:
    document = {"model": {"base": "m"}, "data": {"train": "a.jsonl", "validation": 0.2}, "objective": {"kind": "sft"}}
    return Due(Recipe.parse(document | sections), steps, passes)


@pytest.mark.parametrize(
    ("evaluate", "steps", "expected"),
    [
        (None, 7, []),
        ({"every": 3}, 7, [3, 6, 7]),
        ({"every": 100}, 7, [7]),
        ({}, 7, [1, 2, 3, 4, 5, 6, 7]),
        ({}, 35, [*range(3, 34, 3), 35]),
    ],
)
def test_validations(evaluate: Any, steps: int, expected: list[int]) -> None:
    schedule = due(steps, evaluate=evaluate)
    assert [step for step in range(1, steps + 1) if schedule.validation(step)] == expected


@pytest.mark.parametrize(
    ("steps", "passes", "expected"),
    [(5, 1, [1, 2, 3, 4, 5]), (40, 1, list(range(1, 41, 4))), (6, 3, [1, 2, 3, 4, 5, 6])],
)
def test_answers_of_about_ten_rounds_are_logged(steps: int, passes: int, expected: list[int]) -> None:
    schedule = due(steps, passes)
    assert [step for step in range(1, steps + 1) if schedule.answers(step)] == expected


def test_checkpoints() -> None:
    nothing, saving, stopping = due(9), due(9, save={"every": 4, "keep": 3}), due(9, evaluate={"stop_after": 2})
    assert [step for step in range(1, 10) if saving.checkpoint(step)] == [4, 8]
    assert not any(nothing.checkpoint(step) or stopping.checkpoint(step) for step in range(1, 10))
    assert [schedule.kept for schedule in (nothing, saving, stopping)] == [1, 3, 1]
    assert [schedule.stops_early for schedule in (nothing, saving, stopping)] == [False, False, True]
    assert [schedule.keeps_best for schedule in (nothing, saving, stopping)] == [False, True, True]
