"""Errors of pydantic in plain words, and names that are like a misspelt one."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from bottega.suggestions import describe_errors, error_keys, join_names, nearest_name, suggest_name


class Inner(BaseModel):
    size: int = Field(1, ge=1)


class Settings(BaseModel, extra="forbid"):
    """One field of each kind that a recipe has."""

    rate: float = Field(0.5, gt=0, lt=1)
    size: int = 3
    flag: bool = False
    mode: Literal["auto", "cpu", "cuda"] = "auto"
    letter: Literal["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "kay"] = "a"
    names: str | list[str] = "all"
    inner: Inner | list[Inner] = Inner()
    some: list[int] = Field([1], min_length=1)
    few: list[int] = Field([1, 2], min_length=2, max_length=3)
    pairs: dict[str, int] = Field({}, max_length=1)
    code: str = Field("abc", min_length=2, max_length=3)


def problems(document: dict[str, Any]) -> list[Any]:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(document)
    return caught.value.errors()


@pytest.mark.parametrize(
    ("document", "what", "cure"),
    [
        ({"rate": "fast"}, "expected a number, not 'fast'", "write a number"),
        ({"rate": 1}, "1 is out of range: it must be less than 1", "write a number that is less than 1"),
        ({"rate": 0}, "0 is out of range: it must be more than 0", "write a number that is more than 0"),
        ({"size": 1.5}, "expected a whole number, not 1.5", "write a whole number"),
        ({"size": None}, "expected a whole number, not empty", "write a whole number"),
        ({"size": [1]}, "expected a whole number, not a list", "write a whole number"),
        ({"flag": "perhaps"}, "expected true or false, not 'perhaps'", "write true or false"),
        ({"mode": "gpu"}, "'gpu' is not one of its values", "one of: auto, cpu, cuda"),
        ({"mode": False}, "false is not one of its values", "one of: auto, cpu, cuda"),
        ({"letter": "key"}, "'key' is not one of its values", "did you mean kay?"),
        ({"names": 5}, "expected a text or a list, not 5", "write a text or a list"),
        ({"names": {"a": 1}}, "expected a text or a list, not a section", "write a text or a list"),
        ({"size": "x" * 90}, f"expected a whole number, not '{'x' * 59} …", "write a whole number"),
        ({"some": []}, "the list is empty", "write at least one item"),
        ({"pairs": {"a": 1, "b": 2}}, "the section has more than 1 items", "leave some out"),
        ({"few": [1]}, "the list has fewer than 2 items", "write more"),
        ({"few": [1, 2, 3, 4]}, "the list has more than 3 items", "leave some out"),
        ({"code": ""}, "the text is empty", "write at least one character"),
        ({"code": "a"}, "the text has fewer than 2 characters", "write a longer one"),
        ({"code": "abcd"}, "the text has more than 3 characters", "write a shorter one"),
        ({"other": 1}, "there is no field of this name", "leave it out"),
    ],
)
def test_a_wrong_value_is_described_in_plain_words(document: dict[str, Any], what: str, cure: str) -> None:
    assert describe_errors(problems(document)) == (what, cure)


def test_a_message_of_a_validator_is_kept() -> None:
    problem = {"type": "value_error", "msg": "Value error, Most: must be above free", "input": 3, "loc": ()}
    assert describe_errors([problem]) == ("most: must be above free", "")


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        ({"rate": "fast"}, ["rate"]),
        ({"sise": 3}, ["sise"]),
        ({"names": ["a", 3]}, ["names", "1"]),
        ({"names": 5}, ["names"]),
        ({"inner": [{"size": 1}, {"size": 0}]}, ["inner", "1", "size"]),
    ],
)
def test_the_path_to_a_problem_has_the_keys_of_the_document_alone(document: dict[str, Any], keys: list[str]) -> None:
    """pydantic's own also names the branch of a union that it tried."""
    assert keys in [error_keys(problem, document) for problem in problems(document)]


def test_a_missing_key_is_the_last_of_its_path() -> None:
    problem = {"type": "missing", "loc": ("data", "Source", "path")}
    assert error_keys(problem, {"data": {"split": "train"}}) == ["data", "path"]
    assert error_keys({"type": "value_error", "loc": ()}, {"data": 3}) == []


def test_a_misspelt_name_is_answered_with_the_nearest_or_with_all() -> None:
    assert suggest_name("sharpnes", ["sharpness", "weighting"]) == "did you mean sharpness?"
    assert suggest_name("zzz", ["weighting", "sharpness"]) == "known: sharpness, weighting"
    assert nearest_name("sharpnes", ["weighting", "sharpness"]) == "sharpness"
    assert nearest_name("zzz", ["weighting"]) is None
    assert nearest_name("zzz", []) is None


def test_a_long_list_of_names_is_cut_and_so_is_a_long_name() -> None:
    assert join_names([]) == ""
    assert join_names(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert join_names(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 … and 2 more"
    assert join_names(["a" * 41, "b" * 40]) == f"{'a' * 40}…, {'b' * 40}"
