"""Linear layers whose weight is kept in the order in which the products of few rows read it (`packed_linear.h`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bottega.models.frozen_linear import FrozenLinear

# The inputs of a packed layer must be a multiple of this.
INPUT_MULTIPLE = 32


class PackedLinear(FrozenLinear):
    """A linear layer with a packed weight in bfloat16, of which products without gradients are computed in C++.

    handle  what the operators call it
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self._set(_pack(layer))

    def _set(self, packed: Any) -> None:
        self.packed, self.handle = packed, packed.handle()

    def matmul(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.bottega.linear(x, self.handle)
        return y

    def whole_weight(self) -> Tensor:
        weight: Tensor = self.packed.weight()
        return weight

    @property
    def bytes(self) -> int:
        return int(self.packed.bytes())

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return self.matmul(x.flatten(0, -2)).view(*x.shape[:-1], self.out_features)


def pack_model(model: Any) -> None:
    """Pack every linear layer of a model in bfloat16, in place; adapters go on working. One in another dtype stays.

    The layer of the output embeddings keeps its weight, which may be that of the input embeddings, and is read by
    heads; it gets a packed copy beside it.
    """
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not head and _can_pack(module):
            parent, _, attribute = name.rpartition(".")
            # One at a time: the old layer is freed before the next is packed.
            setattr(model.get_submodule(parent), attribute, PackedLinear(module))
    if type(head) is nn.Linear and _can_pack(head):
        setattr(head, "forward", partial(_head_forward, head, _pack(head)))  # noqa: B010, a method for mypy


def _can_pack(layer: nn.Linear) -> bool:
    return layer.weight.dtype == torch.bfloat16 and layer.in_features % INPUT_MULTIPLE == 0


def _pack(layer: nn.Linear) -> Any:
    packed_class: Callable[..., Any] = torch.classes.bottega.PackedLinear
    return packed_class(layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), False)


def _head_forward(head: nn.Linear, packed: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return nn.functional.linear(x, head.weight, head.bias)
    y: Tensor = torch.ops.bottega.linear(x.flatten(0, -2), packed.handle())
    return y.view(*x.shape[:-1], head.out_features)
