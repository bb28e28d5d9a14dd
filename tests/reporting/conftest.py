"""A real run and its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.recipe.schema import Recipe
from making import make_model, write_jsonl


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned which numbers are big."""
    folder = tmp_path_factory.mktemp("report")
    rows = [{"prompt": f"is {n} <b>big</b> | small?", "completion": " big" if n > 50 else " small"} for n in range(100)]
    rows += rows[:20]
    recipe = Recipe.parse(
        {
            "name": "sizes",
            "model": {"base": str(make_model(folder / "model"))},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.4},
            "objective": {"kind": "sft"},
            "optim": {"steps": 20, "examples": 16, "lr": 1e-2},
            "evaluate": {"every": 5},
            "verdict": {"metric": "loss", "margin": 0.1},
        }
    )
    for _ in bottega.train(recipe, folder / "run"):
        pass
    return folder / "run"


@pytest.fixture(scope="session")
def report_text(run: Path) -> Callable[[str], str]:
    """A function that returns the text of the run's report in a format."""
    result = CliRunner().invoke(app, ["evaluate", str(run)])
    assert result.exit_code == 0, result.output
    assert "Better: loss" in result.output
    assert str(run / "report.html") in result.output.replace("\n", "")
    return lambda suffix: (run / f"report.{suffix}").read_text(encoding="utf-8")
