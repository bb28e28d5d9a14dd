"""Recipes of several adapters: what each has of its own, and what all have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.errors import RecipeError
from bottega.recipe.schema import Recipe
from bottega.recipe.several import load_several, parse_several

SHARED = {
    "model": {"base": "org/model"},
    "objective": {"kind": "sft"},
    "adapter": {"rank": 4, "alpha": 8},
    "data": {"max_length": 64},
    "optim": {"steps": 3},
}


def test_each_has_what_all_have_and_its_own() -> None:
    entries = {
        "billing": {"data": {"train": "billing.jsonl"}},
        "tone": {"data": {"train": "tone.jsonl"}, "adapter": {"rank": 2}, "seed": 7},
    }
    found = parse_several({**SHARED, "adapters": entries})
    assert list(found) == ["billing", "tone"]
    billing, tone = found.values()
    assert (billing.name, tone.name) == ("billing", "tone")
    assert [recipe.adapter.rank for recipe in found.values()] == [4, 2]  # type: ignore[union-attr]
    assert [recipe.adapter.alpha for recipe in found.values()] == [8, 8]  # type: ignore[union-attr]
    assert [Path(recipe.data.train[0].path).name for recipe in found.values()] == ["billing.jsonl", "tone.jsonl"]
    assert {recipe.data.max_length for recipe in found.values()} == {64}
    assert (billing.seed, tone.seed) == (0, 7)


def test_a_recipe_without_the_section_is_one_of_one_run(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("model: {base: org/model}\n")
    assert load_several(tmp_path / "one.yaml") == {}


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        (["billing"], "names, each with the sections that are its own"),
        ({"billing": None}, "names, each with the sections that are its own"),
        ({"a/b": {"data": {"train": "a.jsonl"}}}, "name"),
        ({"billing": {"dta": {}}}, "dta"),
        ({"billing": {"model": {"base": "org/other"}}}, "model is the same for all"),
    ],
)
def test_what_is_no_section_of_adapters(entries: object, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        parse_several({**SHARED, "adapters": entries})


def test_an_error_names_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("objective: {kind: sft}\nadapters: {tone: {adapter: {rank: 0}}}\n")
    with pytest.raises(RecipeError) as caught:
        load_several(tmp_path / "all.yaml")
    assert "adapters.tone" in str(caught.value)


def test_what_one_has_of_its_own_replaces_what_excludes_it() -> None:
    entries = {
        "billing": {"data": {"train": "a.jsonl"}, "optim": {"epochs": 2}},
        "tone": {"data": {"train": "b.jsonl"}, "adapter": {"kind": "ia3"}},
    }
    billing, tone = parse_several({**SHARED, "adapters": entries}).values()
    assert (billing.optim.epochs, billing.optim.steps) == (2, None)
    assert tone.adapter is not None
    assert tone.adapter.kind == "ia3"


def test_commands_for_one_run_say_that_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("model: {base: org/model}\nadapters: {}\n")
    with pytest.raises(RecipeError, match="is of several runs"):
        Recipe.load(tmp_path / "all.yaml")
