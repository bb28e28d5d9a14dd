"""`bottega explain`: a page, or data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from making import make_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("models") / "base"))


def test_a_page_is_written(base: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["explain", base, "the cat sat", "--beside", base, "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert f"open it in a browser: {page}" in result.output
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_data_is_printed(base: str) -> None:
    result = CliRunner().invoke(app, ["explain", base, "the cat sat", "--json"])
    assert json.loads(result.stdout)["model"]["anatomy"]["family"] == "llama"


def test_a_wrong_text_is_refused(base: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explain", base, " ", "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert not (tmp_path / "page.html").exists()
