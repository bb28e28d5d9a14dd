"""Runs to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from making import write_jsonl

ROWS = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]


@pytest.fixture
def train() -> Callable[..., Path]:
    """Trains a base into a folder, on rows and with sections replaced; returns the folder."""

    def train(base: Path, out: Path, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> Path:
        recipe = {
            "model": {"base": str(base), "dtype": "float32"},
            "objective": {"kind": "sft"},
            "data": {"train": str(write_jsonl(out.with_suffix(".jsonl"), rows))},
            "optim": {"steps": 6, "examples": 4, "lr": 5e-2},
            **changes,
        }
        list(bottega.train(bottega.Recipe.parse(recipe), out=out))
        return out

    return train
