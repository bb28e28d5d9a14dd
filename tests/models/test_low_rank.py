"""Adapters read as low-rank updates: what they add, and a network that is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from bottega.errors import ModelError
from bottega.models.low_rank import read_updates
from making import tiny_config


def network_of(kind: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32).eval()


def save_adapter(network: Any, folder: Path, **settings: Any) -> Path:
    """An adapter with random weights, saved by PEFT; the network is left without it."""
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": "all-linear", **settings})
    config.fan_in_fan_out = network.config.model_type == "gpt2"  # its weights are transposed
    adapted = peft.get_peft_model(network, config)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    adapted.unload()
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_an_update_is_what_the_adapter_adds(kind: str, tmp_path: Path) -> None:
    network = network_of(kind)
    folder = save_adapter(network, tmp_path / "a", rank_pattern={"c_proj" if kind == "gpt2" else "o_proj": 2})
    before = {name: type(module) for name, module in network.named_modules()}
    updates = read_updates(network, folder, "a")
    assert {name: type(module) for name, module in network.named_modules()} == before
    merged = peft.PeftModel.from_pretrained(network_of(kind), str(folder)).merge_and_unload()
    for place, update in updates.items():
        added = torch.from_numpy(update.b @ update.a)
        weight, changed = (model.get_submodule(place).weight for model in (network, merged))
        assert added.abs().max() > 0.01
        torch.testing.assert_close(weight + (added.T if update.transposed else added), changed)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["embed_tokens"]}, "lora_embedding_A"),
    ],
)
def test_other_adapters_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    network = network_of("llama")
    folder = save_adapter(network, tmp_path / "a", **settings)
    with pytest.raises(ModelError, match=words):
        read_updates(network, folder, "a")
