"""Recipes: keys, overrides, paths, and the reference page generated from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega import adapters, objectives
from bottega.errors import RecipeError
from bottega.recipe.schema import Data, Recipe, Source
from bottega.records.formats import format_names
from making import ROOT

MINIMAL = {"model": {"base": "org/model"}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}


def test_every_key_but_three_has_a_default() -> None:
    recipe = Recipe.parse(MINIMAL)
    assert recipe.adapter is recipe.evaluate is recipe.save is None
    assert recipe.optim.examples is None
    for key in MINIMAL:
        with pytest.raises(RecipeError, match=key):
            Recipe.parse({name: value for name, value in MINIMAL.items() if name != key})


def test_a_recipe_reads_back_from_its_own_document() -> None:
    document = MINIMAL | {"adapter": {"rank": 3, "targets": ["q_proj"]}, "optim": {"betas": [0.8, 0.9]}}
    recipe = Recipe.parse(document)
    assert Recipe.parse(recipe.document()) == recipe
    assert recipe.fingerprint() == Recipe.parse(recipe.document()).fingerprint() != Recipe.parse(MINIMAL).fingerprint()


def test_default_learning_rates_depend_on_the_method() -> None:
    full, lora = (Recipe.parse(MINIMAL | {"adapter": adapter}).lr for adapter in (None, {}))
    assert (full, lora) == objectives.load("sft").lr
    for kind in adapters.kinds():
        scaled = Recipe.parse(MINIMAL | {"adapter": {"kind": kind}})
        assert scaled.lr == lora * adapters.load(kind).lr_scale
        assert Recipe.parse(MINIMAL | {"adapter": {"kind": kind}, "optim": {"lr": 0.5}}).lr == 0.5


def test_the_recipe_stays_small() -> None:
    sections = [f.annotation for f in Recipe.model_fields.values()]
    models = {c for s in sections for c in [s, *getattr(s, "__args__", ())] if hasattr(c, "model_fields")}
    assert sum(len(model.model_fields) for model in models if model.__module__ == "bottega.recipe.schema") <= 70


def test_a_row_format_is_a_file_of_the_formats() -> None:
    for name in ("auto", *format_names()):
        assert Data.model_validate({"train": "rows.jsonl", "format": name}).format == name
    with pytest.raises(RecipeError, match=r"data\.format: 'mesages' is not one of its values") as caught:
        Recipe.parse(MINIMAL | {"data": {"train": "rows.jsonl", "format": "mesages"}})
    assert caught.value.fix == "did you mean messages?"
    assert set(Source.model_json_schema()["properties"]["format"]["enum"]) == {"auto", *format_names()}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_recipe_is_valid(path: Path) -> None:
    assert Recipe.load(path).name
    assert path.stem in (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")


def test_a_misspelt_key_of_a_source_is_corrected(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {base: org/model}\ndata: {train: a.jsonl}\nobjective: {kind: sft}\n")
    with pytest.raises(RecipeError, match="did you mean weight") as caught:
        Recipe.load(path, "data.train=[{path: a.jsonl, wieght: 2}]")
    assert "data.train.0.wieght" in caught.value.what
    with pytest.raises(RecipeError, match="expected a path"):
        Recipe.load(path, "data.train=5")
