"""The adapters in a folder: of runs, and in folders of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bottega
from bottega.adapters import CONFIG
from bottega.errors import ModelError, RunError
from bottega.runs.adapters import list_adapters, read_adapter


def save(folder: Path, config: dict[str, object], size: int = 10) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * size)
    return folder


def test_adapters_of_runs_and_folders(tmp_path: Path) -> None:
    lora = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "models/smol"}
    own = {"kind": "bottleneck", "settings": {"width": 4}, "base_model_name_or_path": "models/tiny"}
    save(tmp_path / "support-1" / "adapter", lora, 100)
    save(tmp_path / "mine", own)
    save(tmp_path / "damaged", {"peft_type": "LORA"})
    (tmp_path / "whole-1" / "model").mkdir(parents=True)
    (tmp_path / "note.txt").write_text("", encoding="utf-8")
    mine, support = list_adapters(tmp_path)
    assert (mine.name, mine.kind, mine.size, mine.base) == (
        str(tmp_path / "mine"), "bottleneck", "width 4", "models/tiny",
    )  # fmt: skip
    assert (support.kind, support.size, support.base, support.bytes) == ("lora", "rank 8", "models/smol", 100)
    assert support.name == str(tmp_path / "support-1")


def test_a_folder_that_is_one_itself(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", {"peft_type": "IA3", "base_model_name_or_path": "models/smol"})
    (info,) = bottega.list_adapters(folder)
    assert (info.name, info.kind, info.size) == (str(folder), "ia3", "")


def test_nothing_is_no_error_and_damage_is_one_where_it_is_asked_for(tmp_path: Path) -> None:
    assert list_adapters(tmp_path) == []
    with pytest.raises(RunError, match="no such folder"):
        list_adapters(tmp_path / "nothing")
    save(tmp_path / "odd", {"kind": "prompt", "base_model_name_or_path": "m", "settings": [3]})
    assert list_adapters(tmp_path) == []
    with pytest.raises(ModelError, match="does not say what it was trained on"):
        read_adapter(save(tmp_path / "damaged", {}), "damaged")
