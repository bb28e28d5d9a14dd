"""The attention of one forward of continuous batching in C++ (`models/native/step_attention.h`).

Each row reads its texts in one pass, its prefix and its tail together, and rows with a common prefix read it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from bottega.models import native
from bottega.models.attention.mask import AttentionOptions
from bottega.models.attention.row_cache import PromptReading, RowCache, StepLayout

# What the operators are told of a layer: the memory, the plan of the forward, where in the memory the layer has its
# keys and its values, and the options of its attention.
StepArguments: TypeAlias = tuple[list[Tensor], list[int], int, int, float, int, float, Tensor | None]


def make_step_layout(
    network: Any, cache: RowCache, readings: Sequence[PromptReading], counts: Sequence[int]
) -> StepLayout:
    """The fastest layout of a forward of this network; see `StepLayout`."""
    return (NativeStepLayout if native.is_marked(network) else StepLayout)(cache, readings, counts, network.device)


class NativeStepLayout(StepLayout):
    """A layout whose attention is computed in C++ where it fits."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """[1, h, T, D], [1, g, T, D], [1, g, T, D] → [1, T, h, D]."""
        if not native.fits(query, value):
            return super().attend(query, key, value, options)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, h, D], [T, g, D], [T, g, D]
        return cast(Tensor, torch.ops.bottega.attend(q, k, v, *self.arguments(options)))[None]

    def arguments(self, options: AttentionOptions) -> StepArguments:
        """The arguments of the operators for the next layer."""
        (key, key_place), (value, value_place) = self.cache.form.places[self._next_layer()]
        if (key, value) not in self.memory:
            self.memory[key, value] = [text[part] for texts in self.texts for part in (key, value) for text in texts]
        softcap = options.softcap or 0.0
        where = self.memory[key, value], self.plan, key_place, value_place
        return *where, options.scaling, options.window or 0, softcap, options.sinks

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
