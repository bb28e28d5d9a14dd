"""Labelling over HTTP: answers are written, chosen between, and become a preference data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studios import Studio

from bottega.studio.routes.labels import arena_name
from making import QUESTIONS, make_model


@pytest.fixture(scope="module")
def session(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> str:
    base = str(make_model(tmp_path_factory.mktemp("models") / "base"))
    content = "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode()
    data = studio.upload("questions.jsonl", content)["result"]["name"]
    body = {"name": "mine", "models": [base], "data": data, "count": 4, "tokens": 8, "temperature": 1.5}
    task = studio.wait(studio.post("labels", body)["task"])
    assert task["status"] == "done", task
    assert studio.refusal("POST", "labels", body)["message"] == "there is such a session already"
    return "mine"


def test_choices_become_preferences(studio: Studio, session: str) -> None:
    seen = studio.get(f"labels/{session}?rater=ann")
    while (pair := seen["next"]) is not None:
        said = {"pair": pair["pair"], "rater": "ann", "said": "left", "swapped": pair["swapped"]}
        seen = studio.post(f"labels/{session}/choices", said)
    assert seen["summary"]["left"]["value"] == 1.0
    taken_back = studio.post(f"labels/{session}/undo", {"rater": "ann"})
    assert taken_back["next"] is not None
    made = studio.post(f"labels/{session}/data")
    assert made["name"] == "mine-preferences"
    rows = studio.get(f"data/{made['name']}/rows")["rows"]
    assert len(rows) == made["rows"] == seen["summary"]["pairs"] - 1
    assert rows[0].keys() == {"prompt", "chosen", "rejected"}
    assert studio.get(f"recipes/suggestion/{made['name']}")["objective"] in ("dpo", "reward", "orpo")


def test_the_arena_keeps_blind_choices(studio: Studio) -> None:
    body = {"models": ["a", "b"], "prompt": "hello", "answers": ["x", "y"], "rater": "me", "swapped": True}
    summary = studio.post("labels/arena/compare", {**body, "said": "left"})
    assert summary["counts"]["second"] == 1
    assert summary["name"] in [one["name"] for one in studio.get("labels")]


def test_names_of_the_arena_are_file_names(tmp_path: Path) -> None:
    assert arena_name(("org/a b", "è" * 80)).startswith("arena-a-b-")
    assert len(arena_name(("x" * 80, "y"))) <= 60
    assert arena_name(("one/m", "z")) != arena_name(("two/m", "z"))
