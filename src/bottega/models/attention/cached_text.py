"""Keys and values of consecutive tokens in all layers of a model, in as few tensors as there are shapes.

Nearly all models have one shape for all layers. A text is then one tensor, and copying it is one call.

Extra legend: P keys and values of layers in one tensor, g key/value heads, n tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bottega.models.attention.mask import AttentionOptions


@dataclass(frozen=True)
class CacheForm:
    """How the keys and values of a model lie in memory.

    shapes  (P, g, D) of each tensor
    places  where each layer has its key, and where its value: which tensor, and which index of P
    """

    shapes: tuple[tuple[int, int, int], ...]
    places: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]]) -> CacheForm:
        """The form for keys and values like these, of each layer, […, g, n, D] each."""
        counts: dict[tuple[int, int], int] = {}
        places = []
        for layer in layers:
            key, value = ((x.shape[-3], x.shape[-1]) for x in layer)
            found = []
            for shape in (key, value):
                counts[shape] = counts.get(shape, 0) + 1
                found.append((list(counts).index(shape), counts[shape] - 1))
            places.append((found[0], found[1]))
        first = layers[0][0]
        shapes = tuple((count, *shape) for shape, count in counts.items())
        return cls(shapes, tuple(places), first.dtype, first.device)

    @classmethod
    def of_network(cls, network: Any) -> CacheForm:
        """That of a network which computes packed rows, by a forward of one token; remembered."""
        known: CacheForm | None = _FORMS.get(network)
        if known is not None and known.device == network.device:
            return known
        probe = _Probe()
        device, zero = network.device, torch.zeros(1, 1, dtype=torch.long, device=network.device)
        with torch.inference_mode():
            network(
                input_ids=zero,
                position_ids=zero,
                layout=probe,
                use_cache=False,
                logits_to_keep=torch.zeros(1, dtype=torch.long, device=device),
            )
        _FORMS[network] = cls.of(probe.layers)
        return _FORMS[network]

    def new_text(self, tokens: int) -> CachedText:
        """Room for a text: its numbers are whatever lay in memory before."""
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        return CachedText(self, [torch.empty(p, g, tokens, d, **options) for p, g, d in self.shapes])


_FORMS: WeakKeyDictionary[Any, CacheForm] = WeakKeyDictionary()


class _Probe:
    """A layout that computes nothing, and remembers what it would have had to."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → zeros [1, T, h, D]."""
        self.layers.append((key, value))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])


@dataclass(eq=False)
class CachedText:
    """Keys and values of n consecutive tokens; `tensors` [P, g, n, D] each."""

    form: CacheForm
    tensors: list[Tensor]

    def __len__(self) -> int:
        return self.tensors[0].shape[2]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """(key, value) of a layer, [g, n, D] each."""
        return layer_of(self.form, self.tensors, index)

    def part(self, start: int, stop: int) -> CachedText:
        """Those of the tokens from `start` to `stop`, in the same memory."""
        return CachedText(self.form, [tensor[:, :, start:stop] for tensor in self.tensors])

    def copy(self) -> CachedText:
        """The same in memory of its own."""
        return CachedText(self.form, [x.clone(memory_format=torch.contiguous_format) for x in self.tensors])


def layer_of(form: CacheForm, tensors: Sequence[Tensor], index: int) -> tuple[Tensor, Tensor]:
    """(key, value) of a layer from tensors [P, …] of a form."""
    (key, key_place), (value, value_place) = form.places[index]
    return tensors[key][key_place], tensors[value][value_place]


def concatenate(texts: Sequence[CachedText], start: int, stop: int) -> CachedText:
    """The tokens from `start` to `stop` of texts that follow each other: in the memory of one, if it has them all."""
    parts, first = list[CachedText](), 0
    for text in texts:
        parts.append(text.part(max(start - first, 0), max(stop - first, 0)))
        first += len(text)
    parts = [part for part in parts if len(part)] or parts[-1:]
    if len(parts) == 1:
        return parts[0]
    tensors = [torch.cat(some, 2) for some in zip(*(part.tensors for part in parts), strict=True)]
    return CachedText(texts[0].form, tensors)
