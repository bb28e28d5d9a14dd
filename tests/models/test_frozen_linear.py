"""A layer that keeps its weight in a form of its own computes what a linear layer does, and lets gradients through."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bottega.models.frozen_linear import FrozenLinear


class Halved(FrozenLinear):
    """Keeps its weight divided by two."""

    part: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.register_buffer("part", layer.weight.detach() / 2, persistent=False)

    def whole_weight(self) -> Tensor:
        return 2 * self.part.to(self.dtype)


def test_values_and_gradients_are_those_of_the_layer() -> None:
    layer = nn.Linear(5, 3)
    x = torch.randn(2, 4, 5, requires_grad=True)
    results = []
    for one in (layer, Halved(layer)):
        y = one(x)
        results.append((y, torch.autograd.grad(y.pow(2).sum(), x)[0]))
    for own, found in zip(*results, strict=True):
        torch.testing.assert_close(found, own)


def test_it_is_moved_but_its_form_is_not_converted() -> None:
    layer = Halved(nn.Linear(5, 3)).to(torch.float64)
    assert (layer.part.dtype, layer.bias.dtype) == (torch.float32, torch.float64)
    assert layer.bytes == layer.part.nbytes
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)
    assert layer.weight.shape == (layer.out_features, layer.in_features)
    assert list(layer.state_dict()) == ["bias"]
