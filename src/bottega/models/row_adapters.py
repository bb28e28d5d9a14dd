"""Several adapters on one network, of which every token of a flat sequence uses one or none.

The matrices of all LoRA adapters in use are stacked, so a layer has two thin products more however many there are; a
gate keeps for every token what belongs to its own (as in S-LoRA and Punica, Sheng et al. 2023, arXiv 2311.03285). A
layer of another kind computes its own tokens once more; trained tokens have ids of their own.

Legend: T tokens, r the sum of the ranks of the adapters in use, I inputs of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from bottega.batch import Ints
from bottega.models.adapted import read_parts
from bottega.models.arithmetic.plain import PLAIN, Arithmetic
from bottega.models.kernels.lora_linear import (
    ROW_ADAPTER,
    LinearTensors,
    Segment,
    fused_forward,
    has_tensors,
    plain_matrices,
)
from bottega.models.low_rank import saved_invocation
from bottega.models.row_tokens import RowTokens, TokensInUse

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
        self._tokens = RowTokens(network, lambda: self._in_use.state.tokens)

    def add(self, name: str, folder: Path) -> None:
        """Put the adapter saved in a folder on the network; it changes nothing until a token uses it.

        Raises a ModelError, with the network as it was, if it does not fit, and `NotForRows` if it cannot share a base.
        """
        try:
            with self.using(None):
                parts = read_parts(self.network, folder)
        finally:
            self._tokens.put_back()
        invocation = saved_invocation(folder)
        self._invocations[name] = invocation
        # Not the weight of the layer, which may be kept in 4 bits.
        weight = next(weight for weight in self.network.parameters() if weight.is_floating_point())
        matrices = dict[str, RowMatrices]()
        for place, layer in parts.layers.items():
            found = plain_matrices(layer, begins_later=bool(invocation))
            if found is None:
                self._routed(place, PLAIN).layers[name] = layer.requires_grad_(False).eval()
            else:
                a, b, scale = found
                matrices[place] = RowMatrices(a.detach().to(weight), b.detach().to(weight), scale)
        self._tokens.add(name, parts.embeddings, parts.keys_and_values)
        self.put(name, matrices)

    def put(self, name: str, matrices: Mapping[str, RowMatrices], arithmetic: Arithmetic = PLAIN) -> None:
        """Put an adapter of these matrices, which may be parameters, on the layers of these names."""
        for place, own in matrices.items():
            self._routed(place, arithmetic).matrices[name] = own
        self.names.append(name)
        # Never a second time: what was computed with an adapter that had the name before may still be in a cache.
        self._numbers[name] = next(self._next_number)

    def _routed(self, place: str, arithmetic: Arithmetic) -> _LayerAdapters:
        """The adapters of the layer of a name."""
        layer: Any = self.network.get_submodule(place)
        routed: _LayerAdapters | None = getattr(layer, ROW_ADAPTER, None)
        if routed is None:
            # A layer of another class, such as GPT-2's with its transposed weight, has no fused forward.
            plain = fused_forward(layer, arithmetic) if has_tensors(layer) else partial(_forward, layer)
            routed = _LayerAdapters(self._in_use, plain)
            setattr(layer, ROW_ADAPTER, routed)
            layer.forward = routed.forward
        return routed

    def prefix(self, name: str) -> tuple[int, ...]:
        """The ids of an adapter's trained tokens, which stand before its rows."""
        first = self._numbers[name] * self.vocabulary_size
        return tuple(range(first, first + self._tokens.count(name)))

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
        if name is None or start >= len(ids) or self._tokens.count(name):
            return ids  # what trained tokens change is seen by the ids of these alone
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
        device = next(self.network.parameters()).device
        self._in_use.set_by_number(tuple(names), places[numbers].to(device))
        tokens = [self._tokens_in_use(name, ids, numbers).to(device) for name in names if self._tokens.count(name)]
        if tokens:
            self._in_use.state = self._in_use.state._replace(tokens=tuple(tokens))
        return ids % size

    def _tokens_in_use(self, name: str, ids: Tensor, numbers: Tensor) -> TokensInUse:
        places = (numbers == self._numbers[name]).nonzero()[:, 0]
        return TokensInUse(name, places, ids[places] % self.vocabulary_size)

    def remove(self, name: str) -> None:
        """Take an adapter off the network."""
        for module in self.network.modules():
            if (routed := getattr(module, ROW_ADAPTER, None)) is not None:
                routed.matrices.pop(name, None)
                routed.layers.pop(name, None)
                routed.stacked = None
        self._tokens.remove(name)
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
    tokens  the trained tokens among them
    """

    names: tuple[str, ...] = ()
    owner: Tensor | None = None
    rows: Tensor | None = None
    counts: tuple[int, ...] | None = None
    gates: dict[tuple[tuple[int, float], ...], Tensor | None] = {}  # noqa: RUF012, a new one with each index
    tokens: tuple[TokensInUse, ...] = ()

    def rows_of(self, name: str) -> Tensor:
        """[G] the tokens that use one of several adapters in use."""
        assert self.owner is not None, "adapters in turn have matrices only"
        own = (self.owner == self.names.index(name)).nonzero()[:, 0]
        return own if self.rows is None else self.rows[own]


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
    """The adapters of one layer by name; `stacked` is kept for those in use.

    plain     computes the layer with the matrices in use
    matrices  of LoRA
    layers    of other kinds, each in place of the layer for the tokens that use it
    """

    def __init__(self, in_use: _InUse, plain: Callable[..., Tensor]) -> None:
        self.in_use, self.plain = in_use, plain
        self.matrices: dict[str, RowMatrices] = {}
        self.layers: dict[str, nn.Module] = {}
        self.stacked: _Stacked | None = None
        self._is_inside = False

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """[…, I] → […, O] with the adapters in use."""
        state = self.in_use.state
        own = [name for name in state.names if name in self.layers]
        if not own or self._is_inside:
            return self.plain(x, *arguments, **keywords)
        self._is_inside = True
        try:
            if state.owner is None:
                alone: Tensor = self.layers[own[0]](x)
                return alone
            y = self.plain(x)
            flat_x, flat = x.flatten(0, -2), y.flatten(0, -2)
            self.in_use.state = _Used()
            for name in own:
                rows = state.rows_of(name)
                flat = flat.index_copy(0, rows, self.layers[name](flat_x[rows]))
            return flat.view_as(y)
        finally:
            self.in_use.state, self._is_inside = state, False

    def on(self, base: LinearTensors) -> LinearTensors | None:
        """The tensors of the layer with the adapters in use; None where they compute anything else."""
        names, owner, rows, counts, *_ = self.in_use.state
        if not self._is_inside and any(name in self.layers for name in names):
            return None
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
    if tensors is None or tensors.a is None:
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
