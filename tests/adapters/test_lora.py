"""LoRA: its options as PEFT has them, its size, and that it changes nothing before it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from bottega.adapters import InstallOptions, LinearLayer
from bottega.adapters.lora import Lora
from bottega.errors import ModelError
from bottega.recipe.schema import Recipe

IDS = torch.arange(3, 20)[None]


@pytest.fixture
def model(llama: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)


def test_its_options_are_those_of_peft() -> None:
    config = Lora(rank=4, alpha=12, dropout=0.1).peft_config(target_modules="all-linear", task_type="CAUSAL_LM")
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 12, 0.1)
    assert (config.target_modules, config.task_type) == ("all-linear", "CAUSAL_LM")


def test_it_changes_nothing_before_it_is_trained(model: torch.nn.Module) -> None:
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        adapted = Lora(rank=2).install(model, InstallOptions(peft_task="CAUSAL_LM"))
        torch.testing.assert_close(adapted.network(input_ids=IDS).logits, before, rtol=0, atol=0)


def test_the_update_of_a_layer_is_scaled_by_alpha_over_rank(model: torch.nn.Module) -> None:
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    before = layer.weight.detach().clone()  # type: ignore[union-attr]
    adapted = Lora(rank=2, alpha=6, targets=["up_proj"]).install(model, InstallOptions(peft_task="CAUSAL_LM"))
    wrapped = adapted.network.get_submodule("model.layers.0.mlp.up_proj")
    torch.manual_seed(0)
    a, b = (getattr(wrapped, name)["default"].weight.data.normal_() for name in ("lora_A", "lora_B"))
    merged = adapted.merge().get_submodule("model.layers.0.mlp.up_proj").weight
    torch.testing.assert_close(merged, before + 6 / 2 * b @ a)


def test_its_size_is_known_before_it_is_made(model: torch.nn.Module) -> None:
    layers = [
        LinearLayer(name.removeprefix("model."), layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    ]
    adapted = Lora(rank=3).install(model, InstallOptions(peft_task="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in adapted.model.parameters() if weight.requires_grad)
    assert Lora(rank=3).count(layers) == trained > 0


def test_a_report_names_its_rank_and_variants() -> None:
    assert Lora(rank=8).label == "LoRA of rank 8"
    assert Lora(rank=8, dora=True, rslora=True, lr_ratio=16).label == "rsLoRA and DoRA and LoRA+ of rank 8"
    assert Lora(rank=8, init="pissa").label == "PiSSA of rank 8"


def test_ranks_by_pattern_are_those_of_peft(model: torch.nn.Module) -> None:
    lora = Lora(rank=3, targets=["q_proj", "up_proj"], rank_pattern={"q_proj": 1, r"0\.mlp\.up_proj": 5})
    adapted = lora.install(model, InstallOptions(peft_task="CAUSAL_LM"))
    ranks = {
        name.removeprefix("model.layers.").partition(".lora_A")[0]: len(weight)
        for name, weight in adapted.network.named_parameters()
        if "lora_A" in name
    }
    assert ranks == {"0.self_attn.q_proj": 1, "0.mlp.up_proj": 5, "1.self_attn.q_proj": 1, "1.mlp.up_proj": 3}


def test_b_learns_faster_with_lora_plus(model: torch.nn.Module) -> None:
    factor = Lora(lr_ratio=16).lr_factor
    assert factor("model.layers.0.mlp.up_proj.lora_B.default.weight") == 16
    assert factor("model.layers.0.mlp.up_proj.lora_A.default.weight") == 1
    assert Lora().lr_factor("model.layers.0.mlp.up_proj.lora_B.default.weight") == 1


def test_a_recipe_that_names_no_kind_means_lora() -> None:
    document = {"model": {"base": "m"}, "data": {"train": "a.jsonl"}, "objective": {"kind": "sft"}}
    assert Recipe.parse(document | {"adapter": {"rank": 4}}).adapter == Lora(rank=4)


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_finds_nothing_is_refused(key: str, model: torch.nn.Module) -> None:
    lora = Lora.model_validate({"rank": 2, key: {"nothing": 4}})
    with pytest.raises(ModelError, match="no adapted layer is called nothing") as caught:
        lora.install(model, InstallOptions(peft_task="CAUSAL_LM"))
    assert caught.value.where == f"adapter.{key}"
    with pytest.raises(ValidationError, match="is no pattern"):
        Lora.model_validate({key: {"(": 4}})


def test_lengths_and_another_start_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="leave init out, or dora"):
        Lora(dora=True, init="pissa")
