"""Recipes and runs of tiny models that several tests need."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.training.setup import Run, build
from making import WORDS, make_model, write_jsonl

PAIRS = [{"prompt": f"the {word}", "chosen": " sat on the mat", "rejected": " ran"} for word in "abcdef"]


@pytest.fixture
def recipe(llama: Path, tmp_path: Path) -> Callable[..., bottega.Recipe]:
    """A small SFT recipe, with sections replaced."""
    draw = random.Random(0)
    rows = [
        {"prompt": f"the {draw.choice(WORDS)} dog", "completion": " " + " ".join(draw.choices(WORDS, k=5))}
        for _ in range(24)
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)

    def make(**sections: Any) -> bottega.Recipe:
        document = {
            "model": {"base": str(llama), "dtype": "float32"},
            "data": {"train": str(data), "validation": 0.25},
            "objective": {"kind": "sft"},
            "optim": {"steps": 6, "examples": 4, "lr": 1e-2},
        }
        return bottega.Recipe.parse(document | sections)

    return make


@pytest.fixture
def session(llama: Path, tmp_path: Path) -> Callable[..., Run]:
    """A built DPO run of so many updates on `PAIRS`, with sections replaced."""

    def make(steps: int, **more: Any) -> Run:
        document = {
            "model": {"base": str(llama), "dtype": "float32"},
            "data": {"train": str(write_jsonl(tmp_path / "pairs.jsonl", PAIRS))},
            "objective": {"kind": "dpo"},
            "optim": {"steps": steps, "examples": 3},
        }
        return build(bottega.Recipe.parse(document | more))

    return make


@pytest.fixture(scope="session")
def on_policy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A built GRPO run whose answers serve two updates; tests change neither its weights nor its current round."""
    folder = tmp_path_factory.mktemp("on_policy")
    rows = [{"prompt": text} for text in ("the cat sat", "a dog ran on", "red", "then it was", "one two")]
    document = {
        "model": {"base": str(make_model(folder / "base")), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
        "objective": {
            **{"kind": "grpo", "rewards": {"kind": "pattern", "pattern": "[a-m]"}, "group": 3},
            **{"tokens": 6, "passes": 2, "temperature": 0.7},
        },
        "optim": {"steps": 4, "examples": 2},
    }
    return build(bottega.Recipe.parse(document))
