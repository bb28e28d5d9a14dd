"""Models that remember the rows before: some modules keep a number of the last row that the next row is computed with.

A router of NLLB-MoE keeps the capacity of the last text it read in evaluation, and trains with that instead of its
config's; a rotation that grows with the text (dynamic NTK) keeps the longest one. A row must not depend on what was
computed before it, or a run that was resumed, and began with another row, would differ from one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class RowState:
    """Numbers and tensors beside the weights, and tables that are not saved, of all modules as they are now.

    Calling it makes them so again, and takes away what has been added.
    """

    def __init__(self, model: nn.Module) -> None:
        self.held = list(_state_items(model))
        self.known = [(vars(module), frozenset(vars(module))) for module in model.modules()]

    def __call__(self) -> None:
        for place, name, value in self.held:
            if place.get(name) is not value:
                place[name] = value
        for place, names in self.known:
            for name in place.keys() - names:
                if _may_hold_row_state(place[name]):
                    del place[name]


def _state_items(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """(where a module keeps it, its name, its value)."""
    for module in model.modules():
        for name, value in vars(module).items():
            if _may_hold_row_state(value) or (value is None and not name.startswith("_")):
                yield vars(module), name, value
        for name, table in module._buffers.items():
            if name in module._non_persistent_buffers_set:
                yield module._buffers, name, table


def _may_hold_row_state(value: object) -> bool:
    """Whether it may tell of a row; a switch, as that of checkpointing, is a setting."""
    return type(value) in (int, float) or isinstance(value, Tensor)
