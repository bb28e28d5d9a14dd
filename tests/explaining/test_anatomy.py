"""The parts of a network, found by what they are."""

from __future__ import annotations

import pytest
import torch
import transformers

from bottega.errors import ModelError
from bottega.explaining.anatomy import (
    describe,
    find_attention,
    find_layers,
    find_mlp,
    find_projections,
    find_router,
    find_stacks,
)
from making import tiny_config


@pytest.mark.parametrize("kind", ["llama", "mixtral", "bert"])
def test_parts_of_a_layer(kind: str) -> None:
    auto = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
    network = auto.from_config(tiny_config(kind))
    (stack,) = find_stacks(network)
    layer = stack.layers[0]
    assert len(stack.layers) == network.config.num_hidden_layers
    assert find_attention(layer) is not None
    assert set(find_projections(layer)) == {"query", "key", "value"}
    assert (find_router(layer) is not None) == (kind == "mixtral")
    assert (find_mlp(layer) is not None) == (kind != "bert"), "BERT's two products stand in the layer itself"
    about = describe(network)
    assert about["kind"] == ("encoder" if kind == "bert" else "decoder")
    assert about["parameters"] == sum(weight.numel() for weight in network.parameters())


def test_experts_are_not_taken_for_layers() -> None:
    """More experts than layers."""
    network = transformers.AutoModelForCausalLM.from_config(tiny_config("mixtral"))
    assert all(find_attention(layer) is not None for layer in find_stacks(network)[0].layers)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="not found"):
        find_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)), tiny_config("llama"))
