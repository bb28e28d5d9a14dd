"""What is wrong with a recipe or a command is said in plain words: what, where, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.suggestions import join_names, suggest_name
from making import write_jsonl


def test_lists_are_cut_at_ten() -> None:
    assert join_names([str(n) for n in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 … and 2 more"
    assert suggest_name("x", [f"key{n}" for n in range(10)]).count(",") == 9


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    return done.stderr


def test_advice_works_when_followed(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows given as a recipe: the command that is named writes one for them, and the next reads it."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"the cat {n}", "output": f"sat on {n}"} for n in range(12)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for command in ("train", "preview"):
        said = call(command, "rows.jsonl")
        assert "these are rows, not a recipe" in said
        assert "bottega init rows.jsonl --model FOLDER --out recipe.yaml" in said
    assert "bottega init ROWS --model FOLDER --out none.yaml" in call("train", "none.yaml")
    written = CliRunner().invoke(app, ["init", "rows.jsonl", "--model", str(llama), "--out", "recipe.yaml"])
    assert written.exit_code == 0, written.output
    assert CliRunner().invoke(app, ["train", "recipe.yaml", "--dry-run"]).exit_code == 0
    steps = ["train", "recipe.yaml", "optim.steps=2", "optim.epochs=null", "--out", "run"]
    assert CliRunner().invoke(app, steps).exit_code == 0


def test_a_file_to_begin_from_that_is_missing_is_called_so(tmp_path: Path) -> None:
    for name in ("none.jsonl", str(tmp_path / "none")):
        assert "no such file" in call("init", name, "--out", str(tmp_path / "r.yaml"))
    assert "did you mean sft?" in call("init", "stf", "--out", str(tmp_path / "r.yaml"))
