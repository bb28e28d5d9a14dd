"""What a model's name stands for: a hub id, a folder, a run or an adapter."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import bottega
from bottega.errors import ModelError
from bottega.models.source import ModelSource, adapter_folder, locate, quietly
from bottega.recipe.files import RESOLVED
from bottega.recipe.schema import Recipe
from bottega.runs.store import MERGED_BASE


def test_an_unreachable_hub_id_is_requested_once(monkeypatch: Any, capfd: Any) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda _, name, **how: asked.append(name) or (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(ModelError, match="no such folder, and no such model on the hub") as caught:
        bottega.load_embedder("nobody/nothing")
    assert caught.value.where == "nobody/nothing"
    assert asked == ["nobody/nothing"]
    assert capfd.readouterr().err == ""


def adapter_on(base: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}))
    save_file({"x": torch.ones(1)}, folder / "adapter_model.safetensors")
    return folder


def run_of(base: Path, folder: Path, **sections: Any) -> Path:
    """A run folder with its recipe, and no result yet."""
    folder.mkdir()
    document = {"model": {"base": str(base)}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}
    (folder / RESOLVED).write_text(json.dumps(Recipe.parse(document | sections).document()))
    return folder


def test_a_hub_id_and_a_folder_resolve_to_themselves(llama: Path, tmp_path: Path) -> None:
    assert locate("org/model") == ModelSource("org/model")
    assert locate(str(llama)) == ModelSource(str(llama))
    assert locate(str(llama)).tokenizer == str(llama)
    for make, what in ((lambda path: None, "no such folder"), (lambda path: path.touch(), "a file, not a folder")):
        make(tmp_path / "none")
        with pytest.raises(ModelError, match=what):
            locate(str(tmp_path / "none"))


def test_an_adapter_folder_resolves_to_its_base_with_the_adapter(llama: Path, tmp_path: Path) -> None:
    folder = adapter_on(llama, tmp_path / "adapter")
    assert locate(str(folder)) == ModelSource(str(llama), folder)
    assert locate(str(folder)).tokenizer == str(llama)
    (folder / "tokenizer.json").write_text("{}")
    assert locate(str(folder)).tokenizer == str(folder), "one that was trained with it comes first"


def test_a_run_resolves_to_its_result(llama: Path, tmp_path: Path) -> None:
    run = run_of(llama, tmp_path / "run")
    with pytest.raises(ModelError, match="no result yet") as caught:
        locate(str(run))
    assert caught.value.fix == f"finish it: bottega train --resume {run}"
    (run / "model").mkdir()
    assert locate(str(run)) == ModelSource(str(run / "model"))


def test_a_run_with_an_adapter_resolves_to_its_base_with_the_adapter(llama: Path, tmp_path: Path) -> None:
    quantized = {"model": {"base": str(llama), "quantize": "fp8"}, "adapter": {"rank": 2}}
    run = run_of(llama, tmp_path / "run", **quantized)
    adapter_on(llama, run / "adapter")
    for name in (run, run / "adapter"):
        assert locate(str(name)) == ModelSource(str(llama), run / "adapter", "fp8")
    (run / MERGED_BASE).mkdir()
    assert locate(str(run)).base == str(run / MERGED_BASE)


def test_an_adapter_to_continue_is_a_folder_or_that_of_a_run(llama: Path, tmp_path: Path) -> None:
    run = run_of(llama, tmp_path / "run", adapter={"rank": 2})
    folder = adapter_on(llama, run / "adapter")
    assert adapter_folder(str(run)) == adapter_folder(str(folder)) == folder
    with pytest.raises(ModelError, match="holds no adapter"):
        adapter_folder(str(llama))


def fail_loudly() -> None:
    warnings.warn("chatter", UserWarning, stacklevel=1)
    transformers.logging.get_logger("transformers").warning("chatter")
    raise ValueError("first\n\n  second\n")


def test_errors_of_transformers_become_errors_of_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    before = transformers.logging.get_verbosity()
    with (
        pytest.raises(ModelError, match="the config cannot be loaded: first second") as caught,
        quietly("/x", "the config"),
    ):
        fail_loudly()
    assert caught.value.where == "/x"
    with pytest.raises(ModelError, match="no code of a checkpoint is ever run"), quietly("/x", "the config"):
        raise ValueError("set trust_remote_code=True")
    with pytest.raises(ModelError, match="no such model on the hub"), quietly("org/x", "the config"):
        raise OSError
    with pytest.raises(ModelError, match="mine") as own, quietly("/x", "the config"):
        raise ModelError("mine", where="there")
    assert own.value.where == "there"
    assert transformers.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""
