"""Prefix tuning: for which models, what it takes of a model, and how a report calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.adapters import InstallOptions, LinearLayer
from bottega.adapters.prefix import PrefixTuning
from bottega.errors import ModelError
from making import make_model

OPTIONS = InstallOptions(peft_task="CAUSAL_LM")


def layers_of(network: torch.nn.Module) -> list[LinearLayer]:
    kinds = {torch.nn.Linear: lambda one: one.weight.shape, "Conv1D": lambda one: one.weight.shape[::-1]}
    found = []
    for name, module in network.named_modules():
        shape = kinds.get(type(module)) or kinds.get(type(module).__name__)
        if shape is not None and name != "lm_head":
            outputs, inputs = shape(module)
            found.append(LinearLayer(name, inputs, outputs))
    return found


@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma3_text", "gpt2", "phi3"])
def test_it_takes_positions_and_is_counted(model: str, tmp_path: Path) -> None:
    chosen = PrefixTuning(tokens=3)
    assert chosen.virtual_tokens == 3
    assert chosen.label == "prefix tuning with 3 tokens"
    network = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "base", model), dtype=torch.float32)
    layers = layers_of(network)
    adapted = chosen.install(network, OPTIONS)
    trained = [weight for weight in adapted.model.parameters() if weight.requires_grad]
    assert chosen.count(layers) == sum(weight.numel() for weight in trained) > 0
    assert chosen.count([]) == 0


@pytest.mark.parametrize("task", [None, "SEQ_CLS", "SEQ_2_SEQ_LM"])
def test_other_models_are_refused(task: str | None, llama: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama)
    with pytest.raises(ModelError, match="prefix tuning is for decoders"):
        PrefixTuning().install(network, InstallOptions(peft_task=task))
