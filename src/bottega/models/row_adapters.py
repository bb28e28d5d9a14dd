"""Several LoRA adapters on one network, of which every token of a flat sequence uses one or none.

The matrices of all adapters in use are stacked, so a layer has two thin products more however many there are; a gate
keeps for every token what belongs to its own (as in S-LoRA and Punica, Sheng et al. 2023, arXiv 2311.03285).

Legend: T tokens, r the sum of the ranks of the adapters in use, I inputs of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bottega.models.kernels.lora_linear import ROW_ADAPTER, LinearTensors, fused_forward
from bottega.models.low_rank import LowRankUpdate


class RowAdapters:
    """The adapters of a network; `use` says, before each forward, which token has which."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names: list[str] = []
        self._in_use = _InUse()

    def add(self, name: str, updates: Mapping[str, LowRankUpdate]) -> None:
        """Put an adapter on the network; it changes nothing until a token uses it."""
        # Not the weight of the layer, which may be kept in 4 bits.
        weight = next(weight for weight in self.network.parameters() if weight.is_floating_point())
        for place, update in updates.items():
            layer = self.network.get_submodule(place)
            routed = getattr(layer, ROW_ADAPTER, None)
            if routed is None:
                routed = _LayerAdapters(self._in_use)
                setattr(layer, ROW_ADAPTER, routed)
                # A layer of another class, such as GPT-2's with its transposed weight, has no fused forward.
                layer.forward = partial(_forward, layer) if update.transposed else fused_forward(layer)
            a, b = (torch.from_numpy(matrix).to(weight.device, weight.dtype) for matrix in (update.a, update.b))
            routed.matrices[name] = (a, b)
        self.names.append(name)

    def remove(self, name: str) -> None:
        """Take an adapter off the network."""
        for module in self.network.modules():
            if (routed := getattr(module, ROW_ADAPTER, None)) is not None:
                routed.matrices.pop(name, None)
                routed.stacked = None
        self.names.remove(name)

    def use(self, adapters: Sequence[str | None]) -> None:
        """The adapter of each of the T tokens of the next forwards."""
        self._in_use.set(adapters, next(self.network.parameters()).device)


class _InUse:
    """The adapters of the tokens of the next forward, which all layers share.

    names  the adapters that a token uses, sorted
    index  [T] which of them each token uses; -1 for none
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.index = torch.empty(0, dtype=torch.long)
        self.gates: dict[tuple[int, ...], Tensor | None] = {}

    def set(self, adapters: Sequence[str | None], device: torch.device) -> None:
        self.names = tuple(sorted({name for name in adapters if name is not None}))
        place = {name: index for index, name in enumerate(self.names)}
        self.index = torch.tensor([-1 if name is None else place[name] for name in adapters], device=device)
        self.gates = {}

    def gate(self, ranks: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """[T, r] one where a column belongs to a token's adapter; None where it would be one everywhere."""
        # Nearly all layers have the same ranks.
        if ranks not in self.gates:
            owner = torch.tensor([index for index, rank in enumerate(ranks) for _ in range(rank)])  # [r]
            same = self.index[:, None] == owner.to(self.index.device)
            self.gates[ranks] = None if bool(same.all()) else same.to(dtype)
        return self.gates[ranks]


class _LayerAdapters:
    """The adapters of one layer: A [r, I] and B [O, r] by name.

    stacked  (adapters in use, A of them all, B of them all, their ranks)
    """

    def __init__(self, in_use: _InUse) -> None:
        self.in_use = in_use
        self.matrices: dict[str, tuple[Tensor, Tensor]] = {}
        self.stacked: tuple[tuple[str, ...], Tensor, Tensor, tuple[int, ...]] | None = None

    def on(self, base: LinearTensors) -> LinearTensors:
        """The tensors of the layer with the adapters in use."""
        names = self.in_use.names
        if not any(name in self.matrices for name in names):
            return base
        if self.stacked is None or self.stacked[0] != names:
            self.stacked = self._stack(names)
        _, a, b, ranks = self.stacked
        return base._replace(a=a, b=b, gate=self.in_use.gate(ranks, a.dtype))

    def _stack(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor, Tensor, tuple[int, ...]]:
        ranks = tuple(len(self.matrices[name][0]) if name in self.matrices else 0 for name in names)
        pairs = [self.matrices[name] for name in names if name in self.matrices]
        return names, torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1), ranks


def _forward(layer: Any, x: Tensor) -> Tensor:
    """The forward of a layer without a fused one: its own, and the updates added to it."""
    y: Tensor = type(layer).forward(layer, x)
    tensors = getattr(layer, ROW_ADAPTER).on(LinearTensors(None))
    if tensors.a is None:
        return y
    u = x.flatten(0, -2) @ tensors.a.T  # [T, r]
    gated = u if tensors.gate is None else u * tensors.gate
    assert tensors.b is not None, "an adapter has both matrices"
    added: Tensor = gated @ tensors.b.T
    return y + added.view_as(y)
