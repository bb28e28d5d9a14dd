"""Several LoRA adapters on one network, of which every token of a flat sequence uses one or none.

The matrices of all adapters in use are stacked, so a layer has two thin products more however many there are; a gate
keeps for every token what belongs to its own (as in S-LoRA and Punica, Sheng et al. 2023, arXiv 2311.03285).

Legend: T tokens, r the sum of the ranks of the adapters in use, I inputs of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, count
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from bottega.batch import Ints
from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.kernels.lora_linear import ROW_ADAPTER, LinearTensors, Segment, fused_forward, has_tensors
from bottega.models.low_rank import LowRankUpdate

# Where an adapter begins whose invocation does not occur: beyond all rows.
NOWHERE = 1 << 62


def find_invocation(ids: Sequence[int] | Ints, invocation: Sequence[int]) -> int | None:
    """Where the last occurrence of the invocation in a text begins; None if it does not occur."""
    tokens, wanted = np.asarray(ids), np.asarray(invocation)
    if len(tokens) < len(wanted):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(wanted))
    found = np.flatnonzero((windows == wanted).all(1))
    return int(found[-1]) if len(found) else None


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
        self._numbers: dict[str, int] = {}
        self._next_number = count(1)
        self._invocations: dict[str, Sequence[int]] = {}

    def add(self, name: str, updates: Mapping[str, LowRankUpdate], invocation: Sequence[int] = ()) -> None:
        """Put a trained adapter on the network; it changes nothing until a token uses it.

        invocation  the token ids from whose last occurrence on a row uses it; none: the whole row
        """
        self._invocations[name] = invocation
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
                layer.forward = fused_forward(layer, arithmetic) if has_tensors(layer) else partial(_forward, layer)
            routed.matrices[name] = own
        self.names.append(name)
        # Never a second time: what was computed with an adapter that had the name before may still be in a cache.
        self._numbers[name] = next(self._next_number)

    @property
    def vocabulary_size(self) -> int:
        """V, the number of ids without adapter: that of token i with the k-th adapter is k · V + i."""
        return len(cast(Any, self.network).get_input_embeddings().weight)

    def find_start(self, name: str | None, tokens: Sequence[int]) -> int:
        """The first token of a prompt that uses an adapter; beyond all rows if its invocation does not occur."""
        invocation = () if name is None else self._invocations.get(name, ())
        start = find_invocation(tokens, invocation) if invocation else 0
        return NOWHERE if start is None else start

    def mark(self, name: str | None, ids: Ints, start: int) -> Ints:
        """Token ids, of which those from `start` on say that they use an adapter."""
        if name is None or start >= len(ids):
            return ids
        marked = ids.copy()
        marked[max(start, 0) :] += self._numbers[name] * self.vocabulary_size
        return marked

    def use_marked(self, ids: Tensor) -> Tensor:
        """Use the adapters that ids [T] say; returns the ids that an embedding knows."""
        size = self.vocabulary_size
        numbers = ids // size
        present = torch.unique(numbers).tolist()
        names = [name for name, number in self._numbers.items() if number in present]
        places = torch.full((max(present) + 1,), -1, device=ids.device)
        for place, name in enumerate(names):
            places[self._numbers[name]] = place
        self._in_use.set_by_number(tuple(names), places[numbers].to(next(self.network.parameters()).device))
        return ids % size

    def remove(self, name: str) -> None:
        """Take an adapter off the network."""
        for module in self.network.modules():
            if (routed := getattr(module, ROW_ADAPTER, None)) is not None:
                routed.matrices.pop(name, None)
                routed.stacked = None
        self.names.remove(name)
        del self._numbers[name]
        self._invocations.pop(name, None)

    def use(self, adapters: Sequence[str | None]) -> None:
        """The adapter of each of the T tokens of the next forwards."""
        self._in_use.set(adapters, next(self.network.parameters()).device)

    def use_by_number(self, names: Sequence[str], owner: Tensor) -> None:
        """The adapter of each of the T tokens of the next forwards, as its place in `names`, -1 for none."""
        self._in_use.set_by_number(tuple(names), owner)

    def use_in_turn(self, counts: Mapping[str, int]) -> None:
        """The adapters of the next forwards, one after another, each for a number of tokens; what follows has none."""
        self._in_use.set_in_turn(counts)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Inside, all tokens use this adapter; then what was in use before."""
        before = self._in_use.state
        self._in_use.set_all(adapter)
        try:
            yield
        finally:
            self._in_use.state = before

    def use_everywhere(self, adapter: str | None) -> None:
        """The adapter of all tokens of the next forwards."""
        self._in_use.set_all(adapter)


class _Used(NamedTuple):
    """Which adapters the tokens of a forward use.

    names   the adapters that a token uses
    owner   [T] which of them each token uses, or [G] of the tokens `rows`; None if all use the same, or in turn
    rows    [G] the tokens that use an adapter; None if all do
    counts  how many tokens use each, one after another; None if not in turn
    gates   of the owners, by (rank, scale) of each adapter in use
    """

    names: tuple[str, ...] = ()
    owner: Tensor | None = None
    rows: Tensor | None = None
    counts: tuple[int, ...] | None = None
    gates: dict[tuple[tuple[int, float], ...], Tensor | None] = {}  # noqa: RUF012, a new one with each index


class _InUse:
    """The adapters of the tokens of the next forward, which all layers share."""

    def __init__(self) -> None:
        self.state = _Used()

    def set_all(self, adapter: str | None) -> None:
        self.state = _Used(() if adapter is None else (adapter,))

    def set_in_turn(self, counts: Mapping[str, int]) -> None:
        self.state = _Used(tuple(counts), counts=tuple(counts.values()))

    def set(self, adapters: Sequence[str | None], device: torch.device) -> None:
        names = tuple(sorted({name for name in adapters if name is not None}))
        place = {name: index for index, name in enumerate(names)}
        owner = torch.tensor([-1 if name is None else place[name] for name in adapters], device=device)
        self.set_by_number(names, owner)

    def set_by_number(self, names: tuple[str, ...], owner: Tensor) -> None:
        rows = (owner >= 0).nonzero()[:, 0]
        if not len(rows):
            self.state = _Used()
        elif len(rows) == len(owner):
            self.state = _Used(names, owner, gates={})
        else:
            self.state = _Used(names, owner[rows], rows, gates={})

    def gate(self, columns: tuple[tuple[int, float], ...], dtype: torch.dtype) -> Tensor | None:
        """[T or G, r] the scale of an adapter where a column belongs to that of a token, else 0; None if all are 1.

        columns  (rank, scale) of each adapter in use
        """
        owner, gates = self.state.owner, self.state.gates
        assert owner is not None, "each token has an adapter of its own"
        # Nearly all layers have the same ranks.
        if columns not in gates:
            column = torch.tensor([place for place, (rank, _) in enumerate(columns) for _ in range(rank)])  # [r]
            scales = torch.tensor([scale for rank, scale in columns for _ in range(rank)], dtype=dtype)  # [r]
            gate = (owner[:, None] == column.to(owner.device)) * scales.to(owner.device)
            gates[columns] = None if bool((gate == 1).all()) else gate
        return gates[columns]


class _Stacked(NamedTuple):
    """Adapters of a layer as one, whose rank is the sum of theirs; `columns`: rank and scale of each of the names."""

    names: tuple[str, ...]
    a: Tensor
    b: Tensor
    columns: tuple[tuple[int, float], ...]


class _LayerAdapters:
    """The adapters of one layer by name; `stacked` is kept for those in use."""

    def __init__(self, in_use: _InUse) -> None:
        self.in_use = in_use
        self.matrices: dict[str, RowMatrices] = {}
        self.stacked: _Stacked | None = None

    def on(self, base: LinearTensors) -> LinearTensors:
        """The tensors of the layer with the adapters in use."""
        names, owner, rows, counts, _ = self.in_use.state
        if not any(name in self.matrices for name in names):
            return base
        if counts is not None:
            stacked = self._stack(names)
            return base._replace(a=stacked.a, b=stacked.b, segments=_segments(counts, stacked.columns))
        if owner is None:
            return base._replace(**self.matrices[names[0]]._asdict())
        # What is trained changes, and its stack has the gradients of its parts.
        in_use = [self.matrices[name] for name in names if name in self.matrices]
        is_trained = any(one.a.requires_grad or one.b.requires_grad for one in in_use)
        if is_trained or self.stacked is None or self.stacked.names != names:
            self.stacked = self._stack(names)
        stacked = self.stacked
        gate = self.in_use.gate(stacked.columns, stacked.a.dtype)
        return base._replace(a=stacked.a, b=stacked.b, gate=gate, rows=rows)

    def _stack(self, names: tuple[str, ...]) -> _Stacked:
        own = [self.matrices.get(name) for name in names]
        columns = tuple((0, 1.0) if one is None else (len(one.a), one.scale) for one in own)
        present = [one for one in own if one is not None]
        if len(present) == 1:
            return _Stacked(names, present[0].a, present[0].b, columns)
        return _Stacked(names, torch.cat([one.a for one in present]), torch.cat([one.b for one in present], 1), columns)


def _segments(counts: Sequence[int], columns: Sequence[tuple[int, float]]) -> tuple[Segment, ...]:
    """The segments of adapters in turn, each with its number of tokens, its rank and its scale."""
    ends, lasts = list(accumulate(counts)), list(accumulate(rank for rank, _ in columns))
    return tuple(
        Segment(end - count, end, last - rank, last, scale)
        for count, end, (rank, scale), last in zip(counts, ends, columns, lasts, strict=True)
        if rank
    )


def _forward(layer: Any, x: Tensor) -> Tensor:
    """The forward of a layer without a fused one: its own, and the updates added to it."""
    y: Tensor = type(layer).forward(layer, x)
    tensors = getattr(layer, ROW_ADAPTER).on(LinearTensors(None))
    if tensors.a is None:
        return y
    assert tensors.b is not None, "an adapter has both matrices"
    flat = x.flatten(0, -2)
    if tensors.rows is not None:
        update = flat[tensors.rows] @ tensors.a.T
        update = (update if tensors.gate is None else update * tensors.gate) @ tensors.b.T  # [G, O]
        return y.flatten(0, -2).index_add(0, tensors.rows, update).view_as(y)
    if not tensors.segments:
        u = flat @ tensors.a.T * tensors.scale  # [T, r]
        gated = u if tensors.gate is None else u * tensors.gate
        whole: Tensor = y + (gated @ tensors.b.T).view_as(y)
        return whole
    parts = [
        flat[start:end] @ tensors.a[first:last].T * scale @ tensors.b[:, first:last].T
        for start, end, first, last, scale in tensors.segments
    ]
    places = torch.cat([torch.arange(one.start, one.end, device=x.device) for one in tensors.segments])
    added: Tensor = y.flatten(0, -2).index_add(0, places, torch.cat(parts)).view_as(y)
    return added
