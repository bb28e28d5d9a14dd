"""The attention of one forward of continuous batching in C++ (`models/native/step_attention.h`).

Each row reads its texts in one pass, its prefix and its tail together, and rows with a common prefix read it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from bottega.models import native
from bottega.models.attention.mask import AttentionOptions
from bottega.models.attention.row_cache import PromptReading, RowCache, StepLayout


def make_step_layout(
    network: Any, cache: RowCache, readings: Sequence[PromptReading], counts: Sequence[int]
) -> StepLayout:
    """The fastest layout of a forward of this network; see `StepLayout`."""
    return (NativeStepLayout if native.is_marked(network) else StepLayout)(cache, readings, counts, network.device)


class NativeStepLayout(StepLayout):
    """A layout whose attention is computed in C++ where it fits.

    Several layers may be computed at once: the layer that does so passes on the result with the number of those that
    have nothing left to do.
    """

    _passed: Tensor | None = None
    _from: tuple[Any, Any] = (None, None)  # the layer that passed it on, and the rotation it used
    _computed = 0  # layers to come that are computed already

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → [1, T, h, D]."""
        if not native.fits(query, value):
            return super().attend(query, key, value, options)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, h, D], [T, g, D], [T, g, D]
        where = self.next_layers(1)
        own = (options.scaling, options.window or 0, options.softcap or 0.0, options.sinks)
        return cast(Tensor, torch.ops.bottega.attend(q, k, v, *where, *own))[None]

    @property
    def has_one_memory(self) -> bool:
        """Whether the keys and values of all layers lie in one tensor."""
        return len(self.cache.form.shapes) == 1

    def next_layers(self, count: int) -> tuple[list[Tensor], list[int], list[int]]:
        """What the operators are told of the next layers (`native/step_attention.h`), several only in one memory.

        (the memory, the plan of the forward, where in the memory each layer has its keys and its values)
        """
        places = [self.cache.form.places[self._next_layer()] for _ in range(count)]
        (key, _), (value, _) = places[0]
        if (key, value) not in self.memory:
            self.memory[key, value] = [text[part] for texts in self.texts for part in (key, value) for text in texts]
        return self.memory[key, value], self.plan, [index for layer in places for _, index in layer]

    def pass_on(self, output: Tensor, layer: Any, rotation: Any, *, computed: int) -> None:
        """Remember the output of a layer that computed the next ones too."""
        self._passed, self._from, self._computed = output, (layer, rotation), computed

    def is_computed(self, hidden_states: Tensor) -> bool:
        """Whether the layer that asks was computed with one before it: it then returns what it gets."""
        if not self._computed:
            return False
        if hidden_states is not self._passed:
            raise RuntimeError("a layer got something else than in the forward before: BOTTEGA_NATIVE=0 computes it")
        self._computed -= 1
        return True

    def layer_before(self, hidden_states: Tensor, rotation: Any) -> Any:
        """The layer whose output this is, if it used the same rotation; else None."""
        layer, its_rotation = self._from
        return layer if hidden_states is self._passed and rotation is its_rotation else None

    @cached_property
    def memory(self) -> dict[tuple[int, int], list[Tensor]]:
        """All keys and then all values of each of the `texts`, by the tensors of the form in which a layer has them."""
        return {}

    @cached_property
    def texts(self) -> list[list[list[Tensor]]]:
        """The tensors that the forward reads: of banks, prefixes, readings, and the contexts of these."""
        contexts = chain.from_iterable(reading.context for reading in self.readings)
        return [
            [bank.tensors for bank in self.cache.banks],
            [prefix.text.tensors for prefix in self.cache.prefixes],
            [reading.memory.tensors for reading in self.readings],
            [text.tensors for text in contexts],
        ]

    @cached_property
    def plan(self) -> list[int]:
        """The numbers that are the same for all layers."""
        number: dict[Any, int] = {prefix: index for index, prefix in enumerate(self.cache.prefixes)}
        banks, prefixes, readings, contexts = map(len, self.texts)
        return [
            *(banks, self.decoded, prefixes, readings, contexts),
            *(len(bank.rows) for bank in self.cache.banks),
            *(row.length for row in self.cache.rows),
            *(number.get(row.prefix, -1) for row in self.cache.rows),
            *(reading.done for reading in self.readings),
            *self.counts,
            *(len(reading.context) for reading in self.readings),
        ]
