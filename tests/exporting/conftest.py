"""Runs to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import bottega
from making import CAT_ROWS, WORDS, make_model, write_jsonl


@pytest.fixture
def adapted(llama: Path, tmp_path: Path, train: Callable[..., Path]) -> Path:
    """A run of one update that ended in an adapter, and held out half of its pairs."""
    rows = [{"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran"} for word in WORDS]
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.5}
    sections = {"objective": {"kind": "dpo"}, "adapter": {"rank": 2}, "data": data}
    return train(llama, tmp_path / "run", optim={"steps": 1, "examples": 2, "lr": 0.1}, **sections)


@pytest.fixture
def two_adapters(tmp_path: Path, train: Callable[..., Path]) -> Callable[[Path], list[Path]]:
    """Trains two LoRA adapters of a base: of all layers and of some, with ranks and scales of their own."""

    def make(base: Path, targets: tuple[str, ...] = ("q_proj", "down_proj")) -> list[Path]:
        rows = [{**row, "completion": "ran to a tree"} for row in CAT_ROWS]
        optim = {"steps": 8, "examples": 4, "lr": 2e-2}
        some = {"rank": 5, "alpha": 20, "targets": list(targets)}
        return [
            train(base, tmp_path / "all", adapter={"rank": 2}, optim=optim),
            train(base, tmp_path / "some", rows, adapter=some, optim=optim),
        ]

    return make


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A model whose heads are as wide as ONNX Runtime GenAI needs."""
    return make_model(tmp_path / "wide", head_dim=16)


@pytest.fixture
def same_answers() -> Callable[[Path, Path], None]:
    """Asserts that two models continue prompts with the same tokens."""

    def check(one: Path, other: Path) -> None:
        settings = bottega.Sampling(tokens=16, temperature=0)
        prompts = ["the cat sat on", "a dog"]
        answers = [
            [each[0].tokens for each in bottega.load(name, dtype="float32").generate(prompts, settings)]
            for name in (one, other)
        ]
        assert answers[0] == answers[1]

    return check
