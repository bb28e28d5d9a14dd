"""No code of a checkpoint runs, and weights that do not fit their config, or are not there, are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import bottega
from bottega.errors import ModelError
from bottega.models.config import load_stored_config
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import adapter_folder, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Recipe
from bottega.training.judges import LoadedJudges
from making import make_model, tiny_config, write_jsonl

ROWS = [{"prompt": "the cat", "completion": f" sat on {n}"} for n in ("red", "blue", "one")]


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def own_code(folder: Path) -> None:
    """A model whose code would write a file if it were run."""
    left = f"open({str(folder / 'ran')!r}, 'w').close()\n"
    (folder / "modeling_own.py").write_text(left + "class OwnConfig: pass\n")


CODE: dict[str, Callable[[Path], None]] = {
    "auto_map in config.json": lambda folder: change(
        folder / "config.json", auto_map={"AutoConfig": "modeling_own.OwnConfig"}, model_type="own"
    ),
    "auto_map in tokenizer_config.json": lambda folder: change(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.OwnConfig", None]}
    ),
    "auto_map in generation_config.json": lambda folder: (
        (folder / "generation_config.json").write_text(
            json.dumps({"auto_map": {"custom_generate": "modeling_own.OwnConfig"}})
        )
        and None
    ),
    "the folder custom_generate": lambda folder: (folder / "custom_generate").mkdir(),
    "attn_implementation in config.json": lambda folder: change(
        folder / "config.json", attn_implementation="somebody/kernel"
    ),
}


@pytest.mark.parametrize("kind", CODE)
def test_a_folder_with_code_is_refused(kind: str, copied: Path, monkeypatch: Any) -> None:
    own_code(copied)
    CODE[kind](copied)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks whether to run it"))
    recipe = Recipe.parse(
        {
            "model": {"base": str(copied)},
            "data": {"train": str(write_jsonl(copied.parent / "rows.jsonl", ROWS))},
            "objective": {"kind": "sft"},
        }
    )
    for load in (
        lambda: bottega.load(copied),
        lambda: bottega.load_embedder(copied),
        lambda: bottega.load_masked(copied),
        lambda: LoadedJudges("cpu", "float32").load(str(copied)),
        lambda: load_scorer(str(copied), "float32", "cpu"),
        lambda: list(bottega.train(recipe, copied.parent / "run")),
    ):
        with pytest.raises(ModelError, match="no code of a checkpoint is ever run") as caught:
            load()
        assert kind in caught.value.what
        assert caught.value.where == str(copied)
    assert not (copied / "ran").exists()


def test_folders_of_tokenizers_and_adapters_are_checked_for_code(copied: Path) -> None:
    adapter = copied.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(copied)}))
    (adapter / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "x.Y"}}))
    for load in (load_tokenizer, locate, adapter_folder):
        with pytest.raises(ModelError, match="code of its own"):
            load(str(adapter))


def test_a_config_on_the_hub_is_checked_for_code(copied: Path, monkeypatch: Any) -> None:
    """transformers ignores the auto_map of model types that it knows; the check does not."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained
    change(copied / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **how: read(str(copied), **how))
    with pytest.raises(ModelError, match="auto_map") as caught:
        load_stored_config("somebody/model")
    assert caught.value.where == "somebody/model"


def test_an_index_that_names_a_pickle_is_refused(copied: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model.bin\)"):
        bottega.load(copied)


def test_a_pickled_adapter_is_refused(copied: Path) -> None:
    adapter = copied.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(copied)}))
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        bottega.load(adapter)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"])
def test_a_pipe_among_the_files_of_a_model_is_refused(name: str, copied: Path) -> None:
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    with pytest.raises(ModelError, match=f"{name} is a pipe"):
        bottega.load(copied)


def test_layers_beyond_those_of_the_config_are_refused(copied: Path) -> None:
    change(copied / "config.json", num_hidden_layers=1, layer_types=None)
    with pytest.raises(ModelError, match=r"9 weights have no place .*, model.layers.1.input_layernorm.weight"):
        bottega.load(copied)


@pytest.mark.parametrize("key", ["model.layers.0.self_attn.q_norm.weight", "lm_head.bias", "model.extra_norm.weight"])
def test_weights_that_the_model_does_not_use_are_refused(key: str, copied: Path) -> None:
    weights = load_file(copied / "model.safetensors") | {key: torch.ones(8)}
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    if key == "model.extra_norm.weight":  # no part of this model is called so: it belongs to something around it
        bottega.load(copied)
        return
    with pytest.raises(ModelError, match=key):
        bottega.load(copied)


def test_weights_that_every_loader_ignores_are_allowed(copied: Path) -> None:
    harmless = ("model.layers.0.self_attn.rotary_emb.inv_freq", "score.weight", "v_head.summary.weight")
    weights = load_file(copied / "model.safetensors") | {key: torch.ones(8) for key in harmless}
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    assert bottega.load(copied).generate(["the cat"])[0][0].text is not None


@pytest.mark.parametrize("ask", ["load_classifier", "load_tagger", "load_masked"])
def test_a_model_whose_head_would_be_random_is_refused(ask: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = make_model(tmp_path / "base", "bert")
    AutoModelForSequenceClassification.from_config(tiny_config("bert")).base_model.save_pretrained(base)
    with pytest.raises(ModelError) as caught:
        getattr(bottega, ask)(base)
    if ask == "load_masked":
        assert "a new one would answer at random" in caught.value.what
        assert "bottega fill" in str(caught.value.fix)


def adapted(base: Path, out: Path) -> Path:
    document = {
        "model": {"base": str(base), "dtype": "float32"},
        "adapter": {"rank": 2},
        "data": {"train": str(write_jsonl(out.parent / "rows.jsonl", ROWS))},
        "objective": {"kind": "sft"},
        "optim": {"steps": 1, "examples": 3},
    }
    list(bottega.train(Recipe.parse(document), out))
    return out


@pytest.mark.parametrize("change_keys", ["surplus", "missing", "renamed"])
def test_an_adapter_with_missing_weights_is_refused(change_keys: str, copied: Path, tmp_path: Path) -> None:
    run = adapted(copied, tmp_path / "run")
    file = run / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    first = sorted(weights)[0]
    if change_keys != "missing":
        weights[first.replace("layers.0", "layers.7")] = weights[first].clone()
    if change_keys != "surplus":
        del weights[first]
    save_file(weights, file, {"format": "pt"})
    continued = {"model": {"base": str(copied)}, "adapter": {"from": str(run)}, "objective": {"kind": "sft"}}
    recipe = Recipe.parse(continued | {"data": {"train": str(tmp_path / "rows.jsonl")}})
    for load in (
        lambda: bottega.load(run),
        lambda: bottega.load(run / "adapter"),
        lambda: list(bottega.train(recipe, tmp_path / "more")),
    ):
        with pytest.raises(ModelError, match=r"of the adapter .*layers"):
            load()
