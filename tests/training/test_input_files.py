"""The files that a run depends on, and changes of them before it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bottega.errors import RunError
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.training.input_files import check_unchanged, list_input_files
from making import make_model, make_tokenizer, write_jsonl


def test_everything_that_decides_the_result_is_listed(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    base, words = make_model(tmp_path / "base"), make_tokenizer(tmp_path / "words")
    (base / "README.md").write_text("# base")
    (tmp_path / "mine.py").write_text("def score(written, right): return 1")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    save_file({"x": torch.ones(1)}, tmp_path / "first" / "adapter_model.safetensors")
    template = tmp_path / "turns.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    more = [write_jsonl(tmp_path / f"{name}.jsonl", [{"text": "a"}]) for name in ("held_out", "general")]
    given = recipe(
        model={"base": str(base), "tokenizer": str(words)},
        adapter={"from": str(tmp_path / "first")},
        data={"train": str(tmp_path / "rows.jsonl"), "validation": str(more[0]), "template": str(template)},
        objective={"kind": "grpo", "rewards": {"kind": "custom", "file": str(tmp_path / "mine.py")}},
        guard={"replay": str(more[1])},
    )
    assert set(list_input_files(given)) == {
        tmp_path / "rows.jsonl",
        *more,
        *(base / name for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")),
        words / "tokenizer.json",
        words / "tokenizer_config.json",
        tmp_path / "first" / "adapter_config.json",
        tmp_path / "first" / "adapter_model.safetensors",
        template,
        tmp_path / "mine.py",
    }


def test_a_changed_file_is_named_before_a_resume(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    given = recipe(model={"base": str(make_model(tmp_path / "base"))})
    place = {"files": {str(path): checksum(path) for path in list_input_files(given)}}
    check_unchanged(given, place)
    check_unchanged(given, None)
    (tmp_path / "base" / "README.md").write_text("a note changes nothing")
    check_unchanged(given, place)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunError, match="this file has changed since the run began") as caught:
        check_unchanged(given, place)
    assert caught.value.where == str(tmp_path / "rows.jsonl")
    check_unchanged(given, None)
