"""A finished run, and a recipe in a project folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.events import parse
from bottega.recipe.schema import Recipe
from bottega.runs.store import RunStore
from making import make_model, write_jsonl

ROWS = [{"prompt": f"the cat {n}", "completion": f" sat on {n}"} for n in ("red", "blue", "one", "two", "three", "mat")]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    model = make_model(folder / "model", "llama")
    rows = [
        {"text": f"the {word} {one}", "label": word}
        for word in ("red", "blue")
        for one in ("cat", "dog", "mat", "tree")
    ]
    document: dict[str, Any] = {
        "name": "shown",
        "model": {"base": str(model)},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.5},
        "objective": {"kind": "classify"},
        "optim": {"steps": 6, "examples": 4},
        "evaluate": {"every": 2},
        "report": ["tensorboard"],
    }
    list(bottega.train(Recipe.parse(document), folder / "run"))
    return folder / "run"


@pytest.fixture
def recipe(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with relative paths in its own folder; the working directory is another one."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", ROWS)
    document: dict[str, Any] = {
        "model": {"base": str(llama), "dtype": "float32"},
        "data": {"train": "rows.jsonl", "validation": 0.3},
        "objective": {"kind": "sft"},
        "optim": {"epochs": 1, "examples": 2, "lr": 1e-2},
    }
    (folder / "recipe.yaml").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    return folder / "recipe.yaml"


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder with these events, as documents, and sections of its recipe; returns it."""

    def write(*events: dict[str, Any], name: str = "logged", **sections: Any) -> Path:
        document = {"name": name, "model": {"base": "org/m"}, "data": {"train": str(tmp_path / "rows.jsonl")}}
        made = Recipe.parse({**document, "objective": {"kind": "sft"}, **sections})
        with RunStore.create(made, "", tmp_path / name) as store:
            for event in events:
                store.record(parse({"time": 1.0, **event}))
        return tmp_path / name

    return write
