"""Linear layers whose weight is not trained, and is kept in another form than a matrix: quantized, or packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn


class FrozenLinear(nn.Linear):
    """A linear layer that holds the weight [out, in] of another one in a form of its own.

    Gradients pass through, so that an adapter on it can be trained. A subclass of nn.Linear, so that PEFT adapts it;
    `weight` is computed at each access.

    is_linear     it computes x Wᵀ + bias, although with a forward of its own; adapters look for this attribute
    is_quantized  its weight is not what it was; adapters look for this, too
    """

    is_linear = True
    is_quantized = False

    def __init__(self, layer: nn.Linear) -> None:
        # Not nn.Linear's, which would allocate a whole weight.
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        self.bias = layer.bias

    def matmul(self, x: Tensor) -> Tensor:
        """x [T, in] → x Wᵀ + bias [T, out]."""
        return nn.functional.linear(x, self.whole_weight(), self.bias)

    def whole_weight(self) -> Tensor:
        """The weight [out, in] in the layer's dtype."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """Memory of the weight as it is kept."""
        return sum(tensor.nbytes for tensor in self.buffers())

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.whole_weight()

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]; nothing is kept for the backward, which computes the whole weight again."""
        apply = cast(Callable[[Tensor, FrozenLinear], Tensor], _FrozenProduct.apply)
        return apply(x.reshape(-1, self.in_features), self).view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FrozenLinear:
        # What `to`, `half` and `cuda` call. The buffers are moved but never converted: `fn` is applied to an empty
        # tensor, to learn the device alone.
        for name, tensor in self._buffers.items():
            if tensor is not None:
                self._buffers[name] = tensor.to(fn(torch.empty(0, device=tensor.device)).device)
        if self.bias is not None:
            self.bias.data = fn(self.bias.data)
        return self


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ + bias; only x has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.matmul(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.whole_weight(), None
