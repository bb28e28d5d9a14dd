"""Runs and copies of models that several tests need."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from making import write_jsonl

ROWS = [{"prompt": "the cat", "completion": f" sat on {n}"} for n in ("red", "blue", "one")]


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    """A copy of the Llama checkpoint that a test may change."""
    return Path(shutil.copytree(llama, tmp_path / "base"))


@pytest.fixture
def trained() -> Callable[..., list[dict[str, Any]]]:
    """Trains a base on rows into a folder, with sections replaced; returns the validations."""

    def train(base: Path | str, out: Path, rows: list[dict[str, Any]] = ROWS, **sections: Any) -> list[dict[str, Any]]:
        data = str(write_jsonl(out.with_suffix(".jsonl"), rows))
        document = {
            "model": {"base": str(base), "dtype": "float32"},
            "data": {"train": data, "validation": data},
            "objective": {"kind": "sft"},
            "optim": {"steps": 4, "examples": 3, "lr": 0.02},
            "evaluate": {},
            **sections,
        }
        events = bottega.train(bottega.Recipe.parse(document), out)
        return [event.document() for event in events if event.type == "validated"]

    return train
