"""LoRA adapters as what they add to linear layers (Hu et al. 2021, arXiv 2106.09685).

Legend: r rank, I inputs of a layer, O outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bottega.adapters import CONFIG
from bottega.errors import ModelError
from bottega.models.adapted import attach_saved, weight_names


class LowRankUpdate(NamedTuple):
    """What an adapter adds to the output of a linear layer: b · a · x.

    a           [r, I]
    b           [O, r] with the scale of the adapter in it
    transposed  the weight of the layer is stored as [I, O]
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    transposed: bool


def saved_invocation(folder: Path) -> tuple[int, ...]:
    """The token ids from whose last occurrence on a row uses a saved adapter; none: the whole row."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return tuple(config.get("alora_invocation_tokens") or ())


def read_updates(network: nn.Module, folder: Path, name: str) -> dict[str, LowRankUpdate]:
    """The updates of an adapter by the name of the layer in the network, which is left as it was.

    Raises a ModelError, which names the adapter as `name`, if it is no LoRA of linear layers.
    """
    whole = _other_weight(folder)
    if whole is not None:
        raise _not_low_rank(name, f"it has {whole} beside the low-rank updates")
    adapted = attach_saved(network, folder)
    try:
        updates = dict(_updates(adapted.network, name))
    finally:
        adapted.model.unload()
    if not updates:
        raise _not_low_rank(name, "it is of another kind")
    return updates


def _other_weight(folder: Path) -> str | None:
    return next(
        (name for name in weight_names(folder) if not name.endswith((".lora_A.weight", ".lora_B.weight"))), None
    )


def _updates(network: Any, name: str) -> Iterator[tuple[str, LowRankUpdate]]:
    from peft.tuners.lora import Linear, LoraLayer

    for place, layer in network.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer, Linear):
            raise _not_low_rank(name, f"{place} is no linear layer")
        (kind,) = layer.active_adapters
        a, b = (part[kind].weight.detach().float().cpu().numpy() for part in (layer.lora_A, layer.lora_B))
        yield place, LowRankUpdate(a, b * np.float32(layer.scaling[kind]), bool(layer.fan_in_fan_out))


def _not_low_rank(name: str, why: str) -> ModelError:
    fix = "use the run by itself, or export it by itself if its kind can be merged"
    return ModelError(f"this is for LoRA of linear layers only: {why}", where=name, fix=fix)
