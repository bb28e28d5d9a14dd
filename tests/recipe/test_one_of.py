"""Values that must be names of plug-ins, which are listed when the value is checked."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError

from bottega.recipe.one_of import OneOf

NAMES = ["red", "blue"]


class Painted(BaseModel):
    color: Annotated[str, OneOf(lambda: NAMES)] = "red"


@pytest.mark.parametrize("value", ["green", "", None, 5, ["red"]])
def test_other_values_are_refused_as_those_of_a_literal(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Painted.model_validate({"color": value})
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("literal_error", ("color",))
    assert error["msg"] == "Input should be 'red' or 'blue'"


def test_names_are_listed_at_each_check(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Painted(color="blue").color == "blue"
    monkeypatch.setitem(globals(), "NAMES", [*NAMES, "green"])
    assert Painted(color="green").color == "green"
    assert Painted.model_json_schema()["properties"]["color"]["enum"] == ["red", "blue", "green"]
