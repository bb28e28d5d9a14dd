"""Linear layers whose weight is kept in the order in which the products of few rows read it (`packed_linear.h`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from bottega.errors import ModelError
from bottega.models.frozen_linear import FrozenLinear
from bottega.models.native import DTYPES

# The inputs of a packed layer must be a multiple of this.
INPUT_MULTIPLE = 32


class PackedLinear(FrozenLinear):
    """A linear layer with a packed weight, of which products without gradients are computed in C++.

    bits    of a weight: 16, for one that bfloat16 holds exactly, as `pack_model` makes sure; or 8, rounded to 255
            numbers with a scale for each output
    handle  what the operators call it
    """

    is_left_out: ClassVar[bool] = False  # see `left_out_of_state`

    def __init__(self, layer: nn.Linear, bits: int = 16) -> None:
        super().__init__(layer)
        self.bits, self.packed = bits, _Packed(layer, bits)

    @property
    def handle(self) -> int:
        return self.packed.handle

    def matmul(self, x: Tensor) -> Tensor:
        return self.packed.multiply(x)

    def whole_weight(self) -> Tensor:
        return self.packed.weight().to(self.dtype)

    @property
    def bytes(self) -> int:
        return self.packed.bytes

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return self.matmul(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if PackedLinear.is_left_out:
            return
        if self.bits < 16:
            what = f"the weights were rounded to {self.bits} bits when the model was opened"
            raise ModelError(what, where="save", fix="open it with another dtype to save it")
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.whole_weight()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PackedLinear:
        moved = fn(torch.empty(0, dtype=self.dtype))
        if moved.dtype != self.dtype or moved.device.type != "cpu":
            raise ModelError(
                f"a model that was opened for this CPU cannot become {moved.dtype} on {moved.device}",
                where=type(self).__name__,
                fix="open it with that dtype and device, or with BOTTEGA_NATIVE=0 in the environment",
            )
        return self


@contextmanager
def left_out_of_state() -> Iterator[None]:
    """Inside, the state of a model lacks packed weights: PEFT asks for it to find those of an adapter alone."""
    PackedLinear.is_left_out = True
    try:
        yield
    finally:
        PackedLinear.is_left_out = False


class _Packed:
    """A packed weight. A copy of a model shares it, as nothing changes it."""

    def __init__(self, layer: nn.Linear, bits: int) -> None:
        packed_class: Callable[..., Any] = torch.classes.bottega.PackedLinear
        weight = layer.weight.detach().to(torch.bfloat16) if bits == 16 else layer.weight.detach()
        self._packed = packed_class(weight, None if layer.bias is None else layer.bias.detach(), bits)
        self.handle: int = self._packed.handle()

    def multiply(self, x: Tensor) -> Tensor:
        """x [T, in] → x Wᵀ + bias [T, out]."""
        y: Tensor = torch.ops.bottega.linear(x, self.handle)
        return y

    def weight(self) -> Tensor:
        whole: Tensor = self._packed.weight()
        return whole

    @property
    def bytes(self) -> int:
        return int(self._packed.bytes())

    def __deepcopy__(self, memo: Any) -> _Packed:
        return self


def pack_model(model: Any, bits: int = 16) -> None:
    """Pack every linear layer of a model, in place; adapters go on working.

    In 16 bits, only layers whose weights bfloat16 holds exactly. Those of a checkpoint in bfloat16 that is computed in
    float32 are among them: half as much is read, and nothing is rounded.
    The layer of the output embeddings keeps its weight, which may be that of the input embeddings, and is read by
    heads; it gets a packed copy beside it. What an adapter trained stays too.
    """
    head, trained = model.get_output_embeddings(), _modules_of_adapters(model)
    for name, module in list(model.named_modules()):
        if module is not head and module not in trained and _can_pack(module, bits):
            parent, _, attribute = name.rpartition(".")
            # One at a time: the old layer is freed before the next is packed.
            setattr(model.get_submodule(parent), attribute, PackedLinear(module, bits))
    if head not in trained and _can_pack(head, bits):
        setattr(head, "forward", partial(_head_forward, head, _Packed(head, bits)))  # noqa: B010, a method for mypy


def packed_fraction(model: nn.Module) -> float:
    """How many of the weights of a model are packed, embeddings not counted."""
    packed = sum(layer.in_features * layer.out_features for layer in model.modules() if isinstance(layer, PackedLinear))
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = (weight for weight in model.parameters() if weight.dim() > 1 and id(weight) not in embeddings)
    return packed / max(1, packed + sum(weight.numel() for weight in matrices))


def _modules_of_adapters(model: nn.Module) -> set[nn.Module]:
    """All modules that PEFT added to a model."""
    # Importing PEFT takes seconds, and where nobody has imported it there is no such module.
    peft = sys.modules.get("peft.utils.other"), sys.modules.get("peft.tuners.tuners_utils")
    if None in peft:
        return set()
    kinds = (cast(Any, peft[0]).AuxiliaryTrainingWrapper, cast(Any, peft[1]).BaseTunerLayer)
    wrappers = [module for module in model.modules() if isinstance(module, kinds)]
    bases = {base for wrapper in wrappers if isinstance(base := getattr(wrapper, "base_layer", None), nn.Module)}
    return {module for wrapper in wrappers for module in wrapper.modules() if module is not wrapper} - bases


def _can_pack(layer: nn.Module | None, bits: int) -> bool:
    return (
        type(layer) is nn.Linear
        and layer.weight.dtype in DTYPES
        and layer.weight.is_cpu
        and layer.in_features % INPUT_MULTIPLE == 0
        and (bits < 16 or _is_bfloat16(layer.weight.detach()))
    )


def _is_bfloat16(weight: Tensor) -> bool:
    """Whether every number of a weight is one of bfloat16."""
    # By blocks: of most weights in float32 the first shows it.
    blocks = () if weight.dtype == torch.bfloat16 else torch.split(weight, 256)
    return all(torch.equal(block, block.to(torch.bfloat16).to(weight.dtype)) for block in blocks)


def _head_forward(head: nn.Linear, packed: _Packed, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return nn.functional.linear(x, head.weight, head.bias)
    return packed.multiply(x.reshape(-1, head.in_features)).view(*x.shape[:-1], head.out_features)
