"""`bottega.audit` and its command: which rows are read, which checks run, what is written, which errors are raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.auditing.findings import Audit
from bottega.cli.commands import app
from bottega.errors import DataError, ModelError, RecipeError
from making import random_rows, write_jsonl


def kinds(found: Audit) -> list[str]:
    return [one.kind for one in found.findings]


def test_valid_rows_have_no_findings(tmp_path: Path) -> None:
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", random_rows(50)), near=0.95)
    assert kinds(found) == []
    assert found.rows == 50
    assert found.worst() is None
    assert {"no_loss", "quality"} <= set(found.unchecked)


def test_the_command(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [{"utterance": "where is my card now", "intent": "a"}] * 3))
    shown = CliRunner().invoke(app, ["audit", path, "--map", "text=utterance", "--map", "label=intent"])
    assert shown.exit_code == 0, shown.output
    assert "duplicate" in shown.output
    assert "rows.jsonl line 2 ~ rows.jsonl line 1" in shown.output
    assert "not checked" in shown.output
    assert "--fix clean.jsonl" in shown.output
    asked = ["audit", path, "--map", "text=utterance", "--map", "label=intent", "--json", "--strict"]
    printed = CliRunner().invoke(app, asked)
    assert printed.exit_code == 2, "one label is an error"
    document = json.loads(printed.stdout)
    assert {one["kind"] for one in document["findings"]} == {"duplicate", "one label", "rare label"}
    assert document["shape"]["labels"] == [["a", 3]]


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"only": ["duplicate"]}, RecipeError, "no check duplicate"),
        ({"fix": "clean.csv"}, DataError, "a cleaned copy is written as JSON lines"),
        ({"fix": "none/clean.jsonl"}, DataError, "no such folder"),
        ({"fix": "rows.jsonl"}, DataError, "already exists"),
        ({"format": "tables"}, RecipeError, "'tables' is not one of its values"),
        ({"mapping": {"prompt": "question"}}, DataError, "no valid row: 3 rows: no field question"),
        ({"against": ["none.jsonl"]}, DataError, r"none\.jsonl: no such file\n"),
        ({"model": "./none"}, ModelError, "no such folder"),
    ],
)
def test_wrong_options_are_explained(
    options: dict[str, Any], error: type[Exception], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", random_rows(3))
    with pytest.raises(error, match=what):
        bottega.audit("rows.jsonl", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_recipe_cannot_be_combined_with_rows(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a recipe cannot be combined with other rows"):
        bottega.audit(["a.yaml", "b.jsonl"])
    with pytest.raises(RecipeError, match="no such recipe"):
        bottega.audit("a.yaml")
