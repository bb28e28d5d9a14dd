"""What every kind of adapter states, kinds by name, and what the config of a saved one says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import bottega
from bottega import adapters
from bottega.adapters._base import CONFIG, Adapter, InstallOptions, Start
from bottega.adapters.bottleneck import Bottleneck
from bottega.adapters.lora import Lora
from bottega.errors import ModelError, RecipeError
from bottega.models.quantization.linear import quantize_model


class Bias(Adapter):
    """Trains nothing but biases."""

    title = "biases"

    kind: str = "bias"
    size: int = 4
    start: Start = None

    def install(self, model: torch.nn.Module, options: InstallOptions) -> Any:
        raise NotImplementedError

    def count(self, layers: Any) -> int:
        return sum(layer.outputs for layer in layers)


def test_a_kind_is_called_by_its_title_in_reports() -> None:
    assert Bias().label == "biases"


def test_an_adapter_that_is_continued_keeps_its_own_settings() -> None:
    assert Bias.model_validate({"from": "runs/a"}).start == "runs/a"
    # A stored recipe sets every field, to its default.
    assert Bias.model_validate({"from": "runs/a", "size": 4}).start == "runs/a"
    with pytest.raises(ValidationError, match="a continued adapter keeps its own size; leave them out"):
        Bias.model_validate({"from": "runs/a", "size": 8})


@pytest.mark.parametrize("options", [{"rank": 0}, {"alpha": float("inf")}, {"rnk": 4}])
def test_options_are_known_and_in_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Lora.model_validate(options)


def test_a_kind_that_keeps_no_frozen_copy_cannot_be_compared_with(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="biases keeps no frozen copy") as caught:
        Bias().attach(torch.nn.Linear(2, 2), tmp_path, trainable=True, reference=True)
    assert caught.value.where == str(tmp_path)


def test_kinds_are_found_by_the_names_of_their_files() -> None:
    assert adapters.kinds() == ["bottleneck", "ia3", "lora", "prefix", "prompt", "vera"]
    assert adapters.load("lora") is Lora
    assert adapters.build({"kind": "lora", "rank": 4}) == adapters.build({"rank": 4}) == Lora(rank=4)


def test_an_unknown_kind_is_refused_with_a_suggestion() -> None:
    document = {"model": {"base": "m"}, "data": {"train": "a.jsonl"}, "objective": {"kind": "sft"}}
    with pytest.raises(RecipeError, match=r"unknown kind 'lorra'(?s:.*)lora"):
        bottega.Recipe.parse(document | {"adapter": {"kind": "lorra"}})


def write_config(folder: Path, config: Any) -> Path:
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_saved_adapter_names_its_base_and_its_kind(tmp_path: Path) -> None:
    assert not adapters.is_adapter_folder(tmp_path)
    folder = write_config(tmp_path, {"kind": "bias", "base_model_name_or_path": "m", "settings": {"size": 2}})
    assert adapters.is_adapter_folder(folder)
    assert adapters.read_saved(folder) == ("m", "bias", {"size": 2})
    write_config(tmp_path, {"peft_type": "LORA", "base_model_name_or_path": "m"})
    assert adapters.read_saved(folder) == ("m", None, {}), "any adapter of PEFT's"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"kind": "bias"}, "bias"),
        ({"peft_type": "LORA"}, "lora"),
        ({"peft_type": "VERA"}, "vera"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, "prompt"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_the_kind_of_a_saved_adapter(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    write_config(tmp_path, config | {"base_model_name_or_path": "m"})
    assert adapters.saved_kind(tmp_path) == kind


@pytest.mark.parametrize("config", [{"peft_type": "LORA"}, {"base_model_name_or_path": "m"}, ["lora"], 3])
def test_a_config_that_does_not_name_them_is_refused(config: Any, tmp_path: Path) -> None:
    folder = write_config(tmp_path, config)
    with pytest.raises(ModelError, match="does not say what it was trained on") as caught:
        adapters.read_saved(folder)
    assert caught.value.where == str(folder / CONFIG)


def test_a_saved_adapter_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path, {"kind": "bias", "base_model_name_or_path": "m"})
    with pytest.raises(ModelError, match="unknown kind 'bias'") as caught:
        adapters.attach(torch.nn.Linear(2, 2), folder)
    assert caught.value.fix == "this build has bottleneck, ia3, lora, prefix, prompt, vera"


def test_modules_are_named_by_the_ends_of_their_names(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert Lora(train=["norm", "lm_head"]).modules_trained_whole(model) == ["model.norm", "lm_head"]
    assert Lora(train=["mlp", "up_proj"]).modules_trained_whole(model) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert Lora().modules_trained_whole(model) == []


@pytest.mark.parametrize(
    ("end", "what", "fix"),
    [
        ("nrm", "no module with weights is called nrm", "did you mean norm"),
        ("layers", "model.layers is a list of modules", "name what is in it"),
        ("mlp", r"the weights of model\.layers\.0\.mlp are quantized", "what keeps its weights"),
    ],
)
def test_what_cannot_be_trained_whole(end: str, what: str, fix: str, llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    if end == "mlp":
        quantize_model(model, "fp8", [])
        for layer in model.model.layers:  # something that has weights
            layer.mlp.up_proj.bias = torch.nn.Parameter(torch.zeros(layer.mlp.up_proj.out_features))
    with pytest.raises(ModelError, match=what) as caught:
        Lora(train=[end]).modules_trained_whole(model)
    assert fix in (caught.value.fix or "")


def test_a_weight_that_modules_share_is_not_trained_for_one(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.lm_head.weight = model.model.embed_tokens.weight
    with pytest.raises(ModelError, match="lm_head has the weight of another module"):
        Bottleneck(width=2).install(model, InstallOptions(whole=["lm_head"]))
