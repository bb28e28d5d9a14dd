"""A trained weight, and the float32 number behind each of its own that the optimiser moves: its master.

A float32 weight is its own master. A small or float16 weight has a float32 copy. A large bfloat16 weight keeps only the
sixteen bits that its rounding lost, so that weight and master together take four bytes a number and not six.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

LARGE = 1 << 16
"""Numbers from which a bfloat16 weight has no copy: parting a smaller one costs more in calls than it saves."""

ALL = slice(None)

Where = slice | Tensor
"""Some of a weight's numbers: a span of them all, flat, or whole rows by their indices."""


class Trained:
    """A weight that is its own master.

    kept  tensors that hold the master exactly, by the name they are saved under
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        weight.data = weight.data.contiguous()
        self.name, self.weight = name, weight
        self.kept = {"weight": weight.detach()}

    def read(self, where: Where = ALL) -> Tensor:
        """[n] the masters of some of the weight's numbers, float32 or wider."""
        return taken(self.kept["weight"], where)

    def write(self, master: Tensor, where: Where = ALL) -> None:
        """Take what `read` gave, moved in place: as masters, and rounded as weights."""
        put_back(self.kept["weight"], where, master)

    @torch.no_grad()
    def load(self, kept: Mapping[str, Tensor]) -> None:
        """The master as it was in `kept`."""
        for key, tensor in self.kept.items():
            tensor.copy_(kept[key])
        self.write(self.read())


class Copied(Trained):
    """A weight with a float32 copy."""

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        super().__init__(name, weight)
        self.kept = {"weight": weight.detach().float()}

    def write(self, master: Tensor, where: Where = ALL) -> None:
        super().write(master, where)
        put(self.weight.detach(), where, master)


class Parted(Trained):
    """A bfloat16 weight and the lower half of its master's bits.

    Read as signed, that half is what the master has more or less than the weight, both in the bits of a float32: from
    half a unit of bfloat16's last place on the weight is the number above. So the weight is the master rounded to the
    nearest, ties away from zero, and their sum gives the master back.
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        super().__init__(name, weight)
        self.low = torch.zeros_like(self.kept["weight"], dtype=torch.int16)
        self.kept["low"] = self.low

    def read(self, where: Where = ALL) -> Tensor:
        master = taken(self.kept["weight"], where).float()
        master.view(torch.int32).add_(taken(self.low, where))
        return master

    def write(self, master: Tensor, where: Where = ALL) -> None:
        bits = master.view(torch.int32)
        put(self.low, where, bits)
        bits.sub_(taken(self.low, where))
        put(self.kept["weight"], where, master)


def taken(tensor: Tensor, where: Where) -> Tensor:
    """[n] those numbers of a contiguous tensor: a view of a span, a copy of rows."""
    if isinstance(where, Tensor):
        return tensor.index_select(0, where).view(-1)
    return tensor.view(-1) if where is ALL else tensor.view(-1)[where]


def put(tensor: Tensor, where: Where, values: Tensor) -> None:
    """The inverse of `taken`: a span takes the values in its own type."""
    if isinstance(where, Tensor):
        tensor.index_copy_(0, where, values.to(tensor.dtype).view(len(where), *tensor.shape[1:]))
    else:
        taken(tensor, where).copy_(values)


def put_back(tensor: Tensor, where: Where, values: Tensor) -> None:
    """Put what `taken` gave, and what was changed in place: of a span, the tensor's own numbers."""
    if isinstance(where, Tensor):
        put(tensor, where, values)


def with_master(name: str, weight: nn.Parameter) -> Trained:
    """The weight with a master as its precision and size want it."""
    if weight.dtype in (torch.float32, torch.float64):
        return Trained(name, weight)
    return Parted(name, weight) if weight.dtype == torch.bfloat16 and weight.numel() >= LARGE else Copied(name, weight)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is that or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
