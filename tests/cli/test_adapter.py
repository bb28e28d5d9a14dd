"""`bottega adapter`: listed, compared, combined and merged from the shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from making import CAT_ROWS


@pytest.fixture
def runs(llama: Path, train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs with adapters in runs/."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for name, rank in (("one", 2), ("two", 3)):
        train(llama, tmp_path / "runs" / name, CAT_ROWS, adapter={"rank": rank}, optim={"steps": 2, "lr": 1e-2})


def said(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["adapter", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.usefixtures("runs")
def test_from_the_list_to_one_adapter_and_one_model() -> None:
    listed = json.loads(said("list", "--json"))
    assert [(info["name"], info["size"]) for info in listed] == [("runs/one", "rank 2"), ("runs/two", "rank 3")]
    assert "rank 3" in said("list")
    assert "cosine with two" in said("compare", "runs/one", "runs/two")
    output = said("combine", "runs/one=0.5", "runs/two", "--out", "both")
    assert "0.5 · one + 1 · two, rank 5" in output
    assert "bottega generate both" in output
    assert (
        json.loads(
            said("combine", "runs/one", "runs/two", "--out", "small", "--method", "svd", "--rank", "2", "--json")
        )["rank"]
        == 2
    )
    assert "merged" in said("merge", "both", "--out", "whole")
    assert Path("whole", "model.safetensors").exists()


@pytest.mark.usefixtures("runs")
def test_what_is_wrong_is_said(llama: Path) -> None:
    assert "is no number" in said("combine", "runs/one=half", "runs/two", "--out", "both", code=2)
    assert "named twice" in said("combine", "runs/one", "runs/one", "--out", "both", code=2)
    assert "holds no adapter" in said("compare", "runs/one", str(llama), code=2)


def test_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    assert "no adapters in" in said("list", str(tmp_path))


@pytest.mark.usefixtures("runs")
def test_a_served_name_is_switched(llama: Path, tmp_path: Path) -> None:
    from serving import start_with_folder

    runs = {name: tmp_path / "runs" / name for name in ("one", "two")}
    with start_with_folder(tmp_path / "state", base=llama, support=runs["one"], **runs) as running:
        url = f"{running.url}/v1"
        assert json.loads(said("switch", "support", "two", "--url", url, "--json"))["id"] == "support"
        assert running.deployment.source("support") == running.deployment.source("two")
        assert "base from now on" in said("switch", "support", "base", "--url", url)
        assert "does not exist" in said("switch", "support", "three", "--url", url, code=2)
    assert "no server answers" in said("switch", "support", "two", "--url", url, code=2)
