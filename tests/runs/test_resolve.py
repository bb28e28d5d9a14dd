"""What a name refers to."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.errors import RunError
from bottega.recipe.schema import Recipe
from bottega.runs.resolve import resolve
from making import write_jsonl


@pytest.fixture(scope="module")
def run(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resolve")
    rows = write_jsonl(folder / "rows.jsonl", [{"text": f"the cat {n}"} for n in range(8)])
    document = {
        "model": {"base": str(llama)},
        "adapter": {"rank": 2},
        "data": {"train": str(rows)},
        "objective": {"kind": "causal"},
        "optim": {"steps": 1, "examples": 4},
    }
    list(bottega.train(Recipe.parse(document), folder / "run"))
    return folder / "run"


def test_a_run_has_its_recipe_place_and_result(run: Path, llama: Path) -> None:
    resolved = resolve(run)
    assert (resolved.kind, resolved.folder, resolved.is_run) == ("run", run, True)
    assert resolved.recipe is not None
    assert resolved.recipe.model.base == str(llama)
    assert resolved.place is not None
    assert resolved.place["choices"]
    assert resolved.result == run / "adapter"


def test_other_names_have_a_kind_only(run: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    names = {
        run / "adapter": "adapter",
        llama: "model",
        "here": "path",
        tmp_path / "absent": "path",
        "org/name": "hub id",
    }
    for name, kind in names.items():
        resolved = resolve(name)
        assert (resolved.kind, resolved.is_run) == (kind, False)
        assert resolved.recipe is resolved.place is resolved.result is None


def test_a_run_in_progress_has_no_result_and_a_damaged_one_fails_on_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "resolved.json").write_text("{")
    resolved = resolve(tmp_path)
    assert resolved.is_run
    assert resolved.result is resolved.place is None
    with pytest.raises(RunError, match="damaged"):
        _ = resolved.recipe
