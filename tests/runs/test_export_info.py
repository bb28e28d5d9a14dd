"""What an export says of itself is enough to use it, and names no folder of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.errors import RunError
from bottega.recipe.schema import Recipe
from bottega.runs.export_info import EXPORT_FILE, ExportInfo, portable_objective, read_export_info
from bottega.runs.resolve import resolve

INFO = ExportInfo("onnx", "int8", "onnx", "sequence", "run", {"kind": "classify"}, {"labels": ["a", "b"]})


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    INFO.write(tmp_path, {"kl": 0.001})
    assert read_export_info(tmp_path) == INFO
    assert json.loads((tmp_path / EXPORT_FILE).read_text())["comparison"] == {"kl": 0.001}
    resolved = resolve(tmp_path)
    assert (resolved.kind, resolved.export, resolved.choices) == ("export", INFO, {"labels": ["a", "b"]})
    assert resolved.recipe is not None
    assert resolved.recipe.objective.kind == "classify"
    assert not resolved.is_run


def test_an_export_of_a_plain_model_has_no_recipe() -> None:
    assert ExportInfo("merged", "fp32", "transformers", "language", "model").recipe is None


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "onnx"}', '{"colour": "red"}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / EXPORT_FILE).write_text(text)
    with pytest.raises(RunError, match="the file is damaged") as caught:
        read_export_info(tmp_path)
    assert caught.value.where == str(tmp_path / EXPORT_FILE)


def test_an_objective_is_stored_without_folders(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("def score(answer):\n    return 1.0\n")
    objective = {"kind": "grpo", "rewards": [{"kind": "custom", "file": str(reward)}]}
    recipe = Recipe.parse({"model": {"base": "m"}, "data": {"train": "rows.jsonl"}, "objective": objective})
    stored = json.dumps(portable_objective(recipe))
    assert "reward.py" in stored
    assert str(tmp_path) not in stored
