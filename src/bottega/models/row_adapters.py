"""Several LoRA adapters on one network, of which every token of a flat sequence uses one or none.

The matrices of all adapters in use are stacked, so a layer has two thin products more however many there are; a gate
keeps for every token what belongs to its own (as in S-LoRA and Punica, Sheng et al. 2023, arXiv 2311.03285).

Legend: T tokens, r the sum of the ranks of the adapters in use, I inputs of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.kernels.lora_linear import ROW_ADAPTER, LinearTensors, fused_forward
from bottega.models.low_rank import LowRankUpdate


class RowMatrices(NamedTuple):
    """What an adapter adds to the output of a layer: scale · b · a · x.

    a  [r, I]
    b  [O, r]
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0


class RowAdapters:
    """The adapters of a network; `use` or `use_everywhere` says, before each forward, which token has which."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names: list[str] = []
        self._in_use = _InUse()

    def add(self, name: str, updates: Mapping[str, LowRankUpdate]) -> None:
        """Put a trained adapter on the network; it changes nothing until a token uses it."""
        # Not the weight of the layer, which may be kept in 4 bits.
        weight = next(weight for weight in self.network.parameters() if weight.is_floating_point())
        matrices = {place: [torch.from_numpy(one).to(weight) for one in (it.a, it.b)] for place, it in updates.items()}
        self.put(name, {place: RowMatrices(a, b) for place, (a, b) in matrices.items()})

    def put(self, name: str, matrices: Mapping[str, RowMatrices], arithmetic: Arithmetic = PLAIN) -> None:
        """Put an adapter of these matrices, which may be parameters, on the layers of these names."""
        for place, own in matrices.items():
            layer = self.network.get_submodule(place)
            routed = getattr(layer, ROW_ADAPTER, None)
            if routed is None:
                routed = _LayerAdapters(self._in_use)
                setattr(layer, ROW_ADAPTER, routed)
                # A layer of another class, such as GPT-2's with its transposed weight, has no fused forward.
                is_linear = isinstance(layer, nn.Linear)
                layer.forward = fused_forward(layer, arithmetic) if is_linear else partial(_forward, layer)
            routed.matrices[name] = own
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

    def use_everywhere(self, adapter: str | None) -> None:
        """The adapter of all tokens of the next forwards."""
        self._in_use.set_all(adapter)


class _InUse:
    """The adapters of the tokens of the next forward, which all layers share.

    names  the adapters that a token uses, sorted
    index  [T] which of them each token uses, -1 for none; None if all use the same
    """

    def __init__(self) -> None:
        self.set_all(None)

    def set_all(self, adapter: str | None) -> None:
        self.names: tuple[str, ...] = () if adapter is None else (adapter,)
        self.index: Tensor | None = None
        self.gates: dict[tuple[tuple[int, float], ...], Tensor | None] = {}

    def set(self, adapters: Sequence[str | None], device: torch.device) -> None:
        self.names = tuple(sorted({name for name in adapters if name is not None}))
        place = {name: index for index, name in enumerate(self.names)}
        self.index = torch.tensor([-1 if name is None else place[name] for name in adapters], device=device)
        self.gates = {}

    def gate(self, columns: tuple[tuple[int, float], ...], dtype: torch.dtype) -> Tensor | None:
        """[T, r] the scale of an adapter where a column belongs to that of a token, else 0; None for ones everywhere.

        columns  (rank, scale) of each adapter in use
        """
        assert self.index is not None
        # Nearly all layers have the same ranks.
        if columns not in self.gates:
            owner = torch.tensor([index for index, (rank, _) in enumerate(columns) for _ in range(rank)])  # [r]
            scales = torch.tensor([scale for rank, scale in columns for _ in range(rank)], dtype=dtype)  # [r]
            gate = (self.index[:, None] == owner.to(self.index.device)) * scales.to(self.index.device)
            self.gates[columns] = None if bool((gate == 1).all()) else gate
        return self.gates[columns]


class _LayerAdapters:
    """The adapters of one layer by name.

    stacked  (adapters in use, A of them all, B of them all, rank and scale of each)
    """

    def __init__(self, in_use: _InUse) -> None:
        self.in_use = in_use
        self.matrices: dict[str, RowMatrices] = {}
        self.stacked: tuple[tuple[str, ...], Tensor, Tensor, tuple[tuple[int, float], ...]] | None = None

    def on(self, base: LinearTensors) -> LinearTensors:
        """The tensors of the layer with the adapters in use."""
        names = self.in_use.names
        if not any(name in self.matrices for name in names):
            return base
        if self.in_use.index is None:
            return base._replace(**self.matrices[names[0]]._asdict())
        if self.stacked is None or self.stacked[0] != names:
            self.stacked = self._stack(names)
        _, a, b, columns = self.stacked
        if a.requires_grad:
            # They change with every update, and autograd keeps what it was told for one backward only.
            self.stacked = None
        return base._replace(a=a, b=b, gate=self.in_use.gate(columns, a.dtype))

    def _stack(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor, Tensor, tuple[tuple[int, float], ...]]:
        own = [self.matrices.get(name) for name in names]
        columns = tuple((0, 1.0) if one is None else (len(one.a), one.scale) for one in own)
        present = [one for one in own if one is not None]
        return names, torch.cat([one.a for one in present]), torch.cat([one.b for one in present], 1), columns


def _forward(layer: Any, x: Tensor) -> Tensor:
    """The forward of a layer without a fused one: its own, and the updates added to it."""
    y: Tensor = type(layer).forward(layer, x)
    tensors = getattr(layer, ROW_ADAPTER).on(LinearTensors(None))
    if tensors.a is None:
        return y
    u = x.flatten(0, -2) @ tensors.a.T * tensors.scale  # [T, r]
    gated = u if tensors.gate is None else u * tensors.gate
    assert tensors.b is not None, "an adapter has both matrices"
    added: Tensor = gated @ tensors.b.T
    return y + added.view_as(y)
