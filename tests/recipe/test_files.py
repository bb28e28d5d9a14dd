"""Recipe files: YAML, overrides and paths."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.errors import RecipeError
from bottega.recipe.files import (
    PATHS_NOTE,
    apply_override,
    apply_overrides,
    load_yaml,
    read_recipe_file,
    resolve_paths,
    resolve_source_path,
)
from bottega.recipe.schema import Recipe


def paths(recipe: Recipe) -> list[Path]:
    return [Path(source.path) for source in recipe.train_sources]


def test_paths_resolve_against_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    (elsewhere / "mine.jsonl").write_text("")
    path = here / "recipe.yaml"
    path.write_text("model: {base: org/model}\ndata: {train: [a.jsonl, ../b.jsonl]}\nobjective: {kind: sft}\n")
    monkeypatch.chdir(elsewhere)
    assert paths(Recipe.load(path)) == [here / "a.jsonl", tmp_path / "b.jsonl"]
    assert Recipe.load(path).model.base == "org/model"
    assert paths(Recipe.load(path, "data.train=mine.jsonl")) == [elsewhere / "mine.jsonl"]
    assert Recipe.load(path, "name=mine.jsonl").name == "mine.jsonl", "a name is no path"
    (here / "mine.jsonl").write_text("")
    assert paths(Recipe.load(path, "data.train=mine.jsonl")) == [here / "mine.jsonl"]
    (here / "org" / "model").mkdir(parents=True)
    assert Recipe.load(path).model.base == str(here / "org" / "model")


@pytest.mark.parametrize(
    ("override", "value"),
    [("optim.lr=1e-4", 1e-4), ("optim.lr=0.5", 0.5), ("optim.betas=[0.5, 0.6]", (0.5, 0.6)), ("optim.clip=null", None)],
)
def test_overrides(tmp_path: Path, override: str, value: object) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {base: m}\ndata: {train: a.jsonl}\nobjective: {kind: sft}\n")
    name = override.partition("=")[0].removeprefix("optim.")
    assert getattr(Recipe.load(path, override).optim, name) == value


def test_an_override_replaces_the_key_it_excludes(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {base: org/m}\ndata: {train: a.jsonl}\nobjective: {kind: sft}\noptim: {epochs: 1, examples: 2}\n"
    )
    assert Recipe.load(recipe, "optim.steps=40").optim.epochs is None
    assert Recipe.load(recipe, "optim.update_tokens=64").optim.examples is None
    made = Recipe.load(recipe, "model.shape={model_type: llama}", "model.tokenizer=org/m")
    assert made.model.base is None
    assert Recipe.load(recipe, "optim.steps=null").optim.epochs == 1
    with pytest.raises(RecipeError, match="not both"):
        Recipe.load(recipe, "optim.steps=40", "optim.epochs=2")


@pytest.mark.parametrize(
    ("change", "reason", "fix"),
    [
        ("optim.lr", "not an override", "section.key=value"),
        ("=5", "not an override", "section.key=value"),
        ("name.first=x", "name is not a section", "section.key=value"),
        ("optim.lr=[1", "the value is not YAML", "quote it"),
    ],
)
def test_an_override_that_cannot_be_applied(change: str, reason: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        apply_override({"name": "x"}, change, tmp_path)
    assert caught.value.where == change
    assert fix in (caught.value.fix or "")


def test_an_override_makes_the_sections_it_needs(tmp_path: Path) -> None:
    document: dict[str, Any] = {"evaluate": None}
    apply_overrides(document, ["evaluate.every=5", "data.mapping.text=body"], tmp_path)
    assert document == {"evaluate": {"every": 5}, "data": {"mapping": {"text": "body"}}}


def test_keys_of_a_mapping_are_text() -> None:
    assert load_yaml("{10: a, no: b, 1.5: c}") == {"10": "a", "no": "b", "1.5": "c"}
    assert load_yaml("base: &b {x: 1}\nmore: {<<: *b, y: 2}")["more"] == {"x": 1, "y": 2}
    assert load_yaml("") is None


def test_paths_in_every_place_of_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = {
        "data": {"train": ["a.jsonl", {"path": "./b", "weight": 2}, "org/rows"], "validation": 0.2},
        "model": {"base": "org/model", "tokenizer": "./words"},
        "objective": {"rewards": [{"kind": "custom", "file": "mine.py"}, "exact"]},
        "adapter": {"from": "first"},
    }
    assert resolve_paths(document, tmp_path) == {
        "data": {
            "train": [str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "b"), "weight": 2}, "org/rows"],
            "validation": 0.2,
        },
        "model": {"base": "org/model", "tokenizer": str(tmp_path / "words")},
        "objective": {"rewards": [{"kind": "custom", "file": str(tmp_path / "mine.py")}, "exact"]},
        "adapter": {"from": str(tmp_path / "first")},
    }
    assert resolve_source_path("rows.jsonl") == str(tmp_path / "rows.jsonl")
    assert resolve_source_path("org/mix-v1.2") == "org/mix-v1.2"
    with pytest.raises(RecipeError, match="invalid path"):
        resolve_source_path("rows\0.jsonl")


def test_a_file_of_rows_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "rows.json").write_text('{"text": "a"}')
    for name in ("rows.jsonl", "rows.json"):
        with pytest.raises(RecipeError, match="these are rows, not a recipe"):
            read_recipe_file(tmp_path / name, (), ["model", "data"])
    with pytest.raises(RecipeError, match="no such recipe"):
        read_recipe_file(tmp_path / "none.yaml", (), ["model"])
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(RecipeError, match="not a recipe: no keys"):
        read_recipe_file(tmp_path / "list.yaml", (), ["model"])


def test_a_note_in_a_recipe_names_the_folder_of_its_paths(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{PATHS_NOTE}/other/place\nname: x\n")
    assert read_recipe_file(path, ["seed=3"], ["name"]) == ({"name": "x", "seed": 3}, Path("/other/place"))
    path.write_text("name: x\n")
    assert read_recipe_file(path, (), ["name"])[1] == tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    return done.stderr


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (b"model: {base: x\ndata: [", "invalid YAML: line 2, column 5: ", "expected ',' or '}', but got ':'"),
        (b"name: a\nname: b\n", "line 2, column 1: ", "the key name is given twice"),
        (b"name: \xff\xfe", "byte 7: ", "the text is not UTF-8"),
    ],
)
def test_invalid_yaml_is_located(text: bytes, where: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(text)
    said = call("preview", str(tmp_path / "recipe.yaml"))
    assert f"{where}{what}" in said
    assert "unicode string" not in said
    assert "codec" not in said


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


MERGED = "a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "word"),
    [(BOMB, "more than 100,000 values"), (MERGED, "more than 100,000 values"), ("a: &a [*a]\n", "contains itself")],
)
def test_aliases_that_expand_to_too_much_are_refused(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(RecipeError, match=word) as caught:
        Recipe.load(path)
    assert caught.value.where == str(path)
    assert time.process_time() - start < 2


def test_aliases_in_an_override(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    value = "[" + ", ".join(["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]) + "]"
    with pytest.raises(RecipeError, match="not YAML"):
        Recipe.load(tmp_path / "recipe.yaml", f"model.base={value}")


def test_an_alias_is_expanded(tmp_path: Path) -> None:
    text = "model: {base: &b x}\nname: *b\ndata: {train: rows.jsonl}\nobjective: {kind: sft}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    assert Recipe.load(tmp_path / "recipe.yaml").name == "x"
