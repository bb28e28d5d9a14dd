"""A layer with a bottleneck behind it: what it computes, and that it answers like the layer it stands for."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from bottega.adapters import InstallOptions
from bottega.adapters._bottleneck_layer import BottleneckLayer, install_bottlenecks
from bottega.adapters.bottleneck import Bottleneck


def test_what_it_computes() -> None:
    base = nn.Linear(3, 5)
    layer = BottleneckLayer(base, 5, Bottleneck(width=2, activation="relu"), base.weight)
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=0)
    for weight in (*layer.down.parameters(), *layer.up.parameters()):
        nn.init.normal_(weight)
    y = base(x)
    inner = (y @ layer.down.weight.T + layer.down.bias).clamp(min=0)
    torch.testing.assert_close(layer(x), y + inner @ layer.up.weight.T + layer.up.bias)
    layer.enabled = False
    torch.testing.assert_close(layer(x), y, rtol=0, atol=0)


def test_it_answers_like_the_layer_it_stands_for() -> None:
    base = nn.Linear(3, 5)
    layer = BottleneckLayer(base, 5, Bottleneck(), base.weight)
    assert layer.weight is base.weight
    assert (layer.in_features, layer.out_features) == (3, 5)


def test_it_is_switched_off_and_trained_with_new_modules_only() -> None:
    model = nn.ModuleDict({"down_proj": nn.Linear(4, 4), "c_proj": Conv1D(4, 4), "head": nn.Linear(4, 2)})
    adapted = install_bottlenecks(model, Bottleneck(width=2), ["down_proj", "c_proj"], InstallOptions(("head",)))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == adapted.names
    assert {name.split(".")[0] for name in trained} == {"down_proj", "c_proj", "head"}
    assert not any("base_layer" in name for name in trained)
    with adapted.disabled():
        assert not any(layer.enabled for layer in model.modules() if isinstance(layer, BottleneckLayer))
    assert all(layer.enabled for layer in model.modules() if isinstance(layer, BottleneckLayer))
