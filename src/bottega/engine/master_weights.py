"""Master weights: the float32 values that the optimizer updates, behind weights of any precision.

A float32 weight is its own master. A small bfloat16 weight, and any float16 weight, has a float32 copy. A large
bfloat16 weight keeps only the sixteen bits lost in its rounding: weight and master together then take four bytes per
element instead of six.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Elements from which a weight is large. A smaller one is updated as a copy, since splitting it costs more in kernel
# calls than it saves.
LARGE_WEIGHT = 1 << 16

ALL = slice(None)

# Which elements of a weight: a slice of its flat elements, or a tensor with the indices of whole rows.
Selection = slice | Tensor


class MasterWeight:
    """A trained weight that is its own master; subclasses store the master of a half-precision weight.

    parameter  the weight the model computes with
    tensors    what stores the master exactly, by the names that checkpoints use
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        # Flat slices must be views: `view(-1)` fails on a transposed weight.
        parameter.data = parameter.data.contiguous()
        self.name, self.parameter = name, parameter
        self.tensors = {"weight": parameter.detach()}

    def read(self, selection: Selection = ALL) -> Tensor:
        """The selected elements of the master, flat, in float32 or wider.

        May be a view. Update it in place and pass it to `write`.
        """
        return select(self.tensors["weight"], selection)

    def write(self, master: Tensor, selection: Selection = ALL) -> None:
        """Store updated elements from `read` in the master, and rounded in the weight."""
        write_back(self.tensors["weight"], selection, master)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the master from saved `tensors`, and the weight from the master."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.write(self.read())


class CopiedMasterWeight(MasterWeight):
    """A half-precision weight with a float32 copy as its master."""

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        super().__init__(name, parameter)
        self.tensors = {"weight": parameter.detach().float()}

    def write(self, master: Tensor, selection: Selection = ALL) -> None:
        """Store updated elements in the copy, and rounded in the weight."""
        super().write(master, selection)
        assign(self.parameter.detach(), selection, master)


class SplitMasterWeight(MasterWeight):
    """A bfloat16 weight and the lower sixteen bits of its master.

    The master's bits, as an int32, are those of the weight widened to float32 plus the lower bits as a *signed* int16.
    Lower bits of half a unit in the last place or more are negative, and the weight is the next bfloat16 above. So the
    weight is the master rounded to nearest, ties away from zero, and the sum restores the master exactly.
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        super().__init__(name, parameter)
        self.low_bits = torch.zeros_like(self.tensors["weight"], dtype=torch.int16)
        self.tensors["low"] = self.low_bits

    def read(self, selection: Selection = ALL) -> Tensor:
        """The selected elements of the master as a new float32 tensor, flat."""
        master = select(self.tensors["weight"], selection).float()
        # Integer addition carries into the upper bits, which undoes the rounding.
        master.view(torch.int32).add_(select(self.low_bits, selection))
        return master

    def write(self, master: Tensor, selection: Selection = ALL) -> None:
        """Split updated elements into weight and lower bits; `master` is overwritten."""
        bits = master.view(torch.int32)
        # Copying int32 to int16 keeps the lower half, and reads its highest bit as a sign.
        assign(self.low_bits, selection, bits)
        # What is left has zeros in its lower half, so the conversion to bfloat16 rounds nothing.
        bits.sub_(select(self.low_bits, selection))
        assign(self.tensors["weight"], selection, master)


def select(tensor: Tensor, selection: Selection) -> Tensor:
    """The selected elements of a contiguous tensor, flat: a view for a slice, a copy for rows."""
    if isinstance(selection, Tensor):
        return tensor.index_select(0, selection).view(-1)
    return tensor.view(-1) if selection is ALL else tensor.view(-1)[selection]


def assign(tensor: Tensor, selection: Selection, values: Tensor) -> None:
    """Set the selected elements of a contiguous tensor to flat `values`, converted to its dtype."""
    if isinstance(selection, Tensor):
        tensor.index_copy_(0, selection, values.to(tensor.dtype).view(len(selection), *tensor.shape[1:]))
    else:
        select(tensor, selection).copy_(values)


def write_back(tensor: Tensor, selection: Selection, values: Tensor) -> None:
    """Store elements from `select` after they were updated in place."""
    # A slice was a view, so the update is in the tensor already.
    if isinstance(selection, Tensor):
        assign(tensor, selection, values)


def make_master_weight(name: str, parameter: nn.Parameter) -> MasterWeight:
    """The weight with the kind of master its dtype and size need."""
    if parameter.dtype in (torch.float32, torch.float64):
        return MasterWeight(name, parameter)
    # The split relies on bfloat16 being the upper half of a float32; float16 has another exponent.
    if parameter.dtype == torch.bfloat16 and parameter.numel() >= LARGE_WEIGHT:
        return SplitMasterWeight(name, parameter)
    return CopiedMasterWeight(name, parameter)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, unless its dtype is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
