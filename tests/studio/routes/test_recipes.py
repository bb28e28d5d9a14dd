"""Recipes over HTTP: from choices to a document, its fields, its rows as tokens, and what it will take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studios import Studio

from making import QUESTIONS, make_model


@pytest.fixture(scope="module")
def data(studio: Studio) -> str:
    content = "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode()
    return str(studio.upload("questions.jsonl", content)["result"]["name"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "base")


def test_choices_become_a_recipe(studio: Studio, data: str, base: Path) -> None:
    choices = {"data": data, "model": str(base), "method": "lora", "name": "mine", "changes": {"optim.lr": 0.001}}
    made = studio.post("recipes/make", choices)
    document = made["document"]
    assert document["adapter"] == {"rank": 16, "alpha": 32}
    assert (document["optim"]["lr"], document["data"]["validation"], document["name"]) == (0.001, 0.1, "mine")
    assert document["data"]["train"].endswith("rows.jsonl")
    assert made["full"]["optim"]["schedule"] == "cosine"
    assert made["command"].endswith("bottega train recipe.yaml")
    assert "adapter" not in studio.post("recipes/make", {**choices, "method": "full"})["document"]
    compile(made["python"], "copied.py", "exec")
    assert "'supervised'" in made["python"]
    assert studio.post("recipes/make", {**choices, "method": "kto"})["python"] is None
    # What the form and the YAML say is checked by the same rules.
    assert studio.post("recipes/check", {"text": made["text"]})["full"] == made["full"]


@pytest.mark.parametrize("objective", ["sft", "dpo", "grpo", "classify", "causal"])
def test_every_field_of_a_recipe_is_described(studio: Studio, objective: str) -> None:
    fields = studio.get(f"recipes/fields/{objective}?adapter=lora")
    by_key = {field["key"]: field for field in fields}
    assert by_key["optim.schedule"]["choices"] == ["cosine", "linear", "constant", "wsd"]
    assert by_key["optim.lr"]["type"] == "number"
    assert by_key["optim.floor"]["maximum"] == 1
    assert by_key["adapter.rank"]["type"] == "integer"
    assert by_key["data.train"]["required"]
    assert all(field["description"] for field in fields if field["key"] != "report")


def test_the_rows_suggest_an_objective(studio: Studio, data: str) -> None:
    suggestion = studio.get(f"recipes/suggestion/{data}")
    assert suggestion["objective"] == "sft"
    assert "dpo" in suggestion["objectives"]


def test_every_method_is_an_objective(studio: Studio, data: str) -> None:
    kinds = set(studio.get(f"recipes/suggestion/{data}")["objectives"])
    methods = studio.get("recipes/methods")
    assert {method["objective"] for method in methods} <= kinds
    assert len({method["id"] for method in methods}) == len(methods)


def test_rows_are_shown_as_tokens(studio: Studio, data: str, base: Path) -> None:
    shown = studio.post("recipes/preview", {"data": data, "model": str(base), "objective": "sft", "start": 2})
    (_, (tokens,)), *_ = shown["examples"]
    assert any(token["weight"] > 0 for token in tokens)
    assert any(token["weight"] == 0 for token in tokens)
    assert QUESTIONS[2]["output"] in "".join(token["text"] for token in tokens if token["weight"])


def test_a_plan_is_counted(studio: Studio, data: str, base: Path) -> None:
    document = studio.post("recipes/make", {"data": data, "model": str(base), "method": "lora"})["document"]
    plan = studio.post("recipes/plan", {"document": document})
    assert 0 < plan["memory"] < plan["limit"]
    assert plan["updates"] > 0


def test_the_time_is_measured_in_a_task(studio: Studio, data: str, base: Path) -> None:
    document = studio.post("recipes/make", {"data": data, "model": str(base), "method": "lora"})["document"]
    task = studio.wait(studio.post("recipes/measure", {"document": document})["task"])
    assert task["status"] == "done", task
    assert task["result"]["measured"]
    assert task["result"]["seconds"] > 0
    assert task["id"] not in [shown["id"] for shown in studio.get("home")["tasks"]]


def test_wrong_settings_are_named(studio: Studio, data: str, base: Path) -> None:
    choices = {"data": data, "model": str(base), "method": "lora", "changes": {"optim.lr": -1}}
    refusal = studio.refusal("POST", "recipes/make", choices)
    assert refusal["code"] == "RecipeError"
    assert "optim.lr" in f"{refusal['where']} {refusal['message']}"
    assert (
        studio.refusal("POST", "recipes/make", {**choices, "method": "unknown", "changes": {}})["code"] == "RecipeError"
    )
