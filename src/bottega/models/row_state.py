"""State that some modules keep from one row to the next, and how it is reset.

A router of NLLB-MoE keeps the capacity of the last text it read in evaluation, and trains with that instead of its
config's; a dynamic NTK rotation keeps the longest text it has seen. A row must not depend on the rows computed before
it, or a resumed run, which starts at another row, would differ from an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class RowState:
    """A snapshot of the numbers, tensors and unsaved buffers that the modules of a model hold beside their weights."""

    def __init__(self, model: nn.Module) -> None:
        self.items = list(_state_items(model))
        self.known_names = [(vars(module), frozenset(vars(module))) for module in model.modules()]

    def restore(self) -> None:
        """Put every value back, and remove attributes added since that may hold state."""
        # Compared by identity: the values are tensors as well, and almost always unchanged.
        for attributes, name, value in self.items:
            if attributes.get(name) is not value:
                attributes[name] = value
        for attributes, names in self.known_names:
            for name in attributes.keys() - names:
                if _may_hold_row_state(attributes[name]):
                    del attributes[name]


def _state_items(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """(the dictionary of a module that holds a value, its name, the value)."""
    for module in model.modules():
        for name, value in vars(module).items():
            # A public None may be a cache that is still empty; private ones are nn.Module's own bookkeeping.
            if _may_hold_row_state(value) or (value is None and not name.startswith("_")):
                yield vars(module), name, value
        for name, buffer in module._buffers.items():
            # Buffers that a checkpoint saves are learned; the others are tables, which a module may grow.
            if name in module._non_persistent_buffers_set:
                yield module._buffers, name, buffer


def _may_hold_row_state(value: object) -> bool:
    # Not bool, a subclass of int: a switch such as gradient checkpointing is a setting.
    return type(value) in (int, float) or isinstance(value, Tensor)
