"""The fields of a recipe as data."""

from __future__ import annotations

import json

import pytest

from bottega import adapters, objectives
from bottega.errors import BottegaError
from bottega.recipe.form import recipe_form

TYPES = {"text", "integer", "number", "boolean", "choice", "json"}


@pytest.mark.parametrize("objective", objectives.kinds())
def test_every_objective_has_a_form(objective: str) -> None:
    fields = recipe_form(objective)
    assert {field["type"] for field in fields} <= TYPES
    assert all(field["choices"] for field in fields if field["type"] == "choice")
    keys = [field["key"] for field in fields]
    assert len(keys) == len(set(keys))
    own = {f"objective.{name}" for name in objectives.load(objective).model_fields if name != "kind"}
    assert own == {key for key in keys if key.startswith("objective.")}
    json.dumps(fields)


@pytest.mark.parametrize("adapter", adapters.kinds())
def test_an_adapter_adds_its_fields(adapter: str) -> None:
    keys = {field["key"] for field in recipe_form("sft", adapter)}
    assert any(key.startswith("adapter.") for key in keys)
    assert not any(key.startswith("adapter.") for key in {field["key"] for field in recipe_form("sft")})


def test_limits_and_defaults() -> None:
    fields = {field["key"]: field for field in recipe_form("sft")}
    assert fields["optim.warmup"]["default"] == 0.05
    assert fields["optim.warmup"]["minimum"] == 0
    assert fields["data.train"]["required"]
    assert fields["data.bad_rows"] == {
        "key": "data.bad_rows",
        "type": "choice",
        "choices": ["error", "drop"],
        "default": "error",
        "required": False,
        "description": "What to do with an invalid row.",
    }


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BottegaError):
        recipe_form("sftt")
