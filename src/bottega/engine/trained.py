"""A trained weight, and the float32 number behind each of its own that the optimiser moves: its master.

A float32 weight is its own master. A small or float16 weight has a float32 copy. A large bfloat16 weight keeps only the
sixteen bits that its rounding lost, so that weight and master together take four bytes a number and not six.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

LARGE = 1 << 16
"""Numbers from which a bfloat16 weight has no copy: parting a smaller one costs more in calls than it saves."""

HALF = 1 << 15
"""Half a unit of bfloat16's last place, in the bits of a float32."""

LOW, HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)
"""Places of a float32's halves."""

ALL = slice(None)


class Trained:
    """A weight that is its own master.

    kept  tensors that hold the master exactly, by the name they are saved under
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        weight.data = weight.data.contiguous()
        self.name, self.weight = name, weight
        self.flat = weight.detach().view(-1)
        self.kept = {"weight": weight.detach()}

    def read(self, span: slice = ALL) -> Tensor:
        """[n] the masters of the weight's numbers in `span`, float32 or wider."""
        return self.flat[span]

    def write(self, master: Tensor, span: slice = ALL) -> None:
        """Take what `read` gave, moved in place: as masters, and rounded as weights."""

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
        self.copy = self.kept["weight"].view(-1)

    def read(self, span: slice = ALL) -> Tensor:
        return self.copy[span]

    def write(self, master: Tensor, span: slice = ALL) -> None:
        self.flat[span].copy_(master)


class Parted(Trained):
    """A bfloat16 weight and the bits that its rounding lost.

    In the bits of a float32, to add half a unit of bfloat16's last place carries into the upper sixteen where rounding
    to the nearest would go up. So the sum's upper half is the weight and its lower half the rest; both together, less
    the half unit, are the master.
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        super().__init__(name, weight)
        self.rest = torch.full_like(self.flat, HALF - (1 << 16), dtype=torch.int16)
        self.kept = {"weight": weight.detach(), "rest": self.rest}

    def read(self, span: slice = ALL) -> Tensor:
        rest = self.rest[span]
        halves = rest.new_empty(len(rest), 2)
        halves[:, LOW].copy_(rest)
        halves[:, HIGH].copy_(self.flat[span].view(torch.int16))
        bits = halves.view(torch.int32).view(-1)
        return bits.sub_(HALF).view(torch.float32)

    def write(self, master: Tensor, span: slice = ALL) -> None:
        halves = master.view(torch.int32).add_(HALF).view(torch.int16).view(-1, 2)
        self.rest[span].copy_(halves[:, LOW])
        self.flat[span].view(torch.int16).copy_(halves[:, HIGH])


def with_master(name: str, weight: nn.Parameter) -> Trained:
    """The weight with a master as its precision and size want it."""
    if weight.dtype in (torch.float32, torch.float64):
        return Trained(name, weight)
    return Parted(name, weight) if weight.dtype == torch.bfloat16 and weight.numel() >= LARGE else Copied(name, weight)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is that or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
