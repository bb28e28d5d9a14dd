"""How LoRA adapters of one base differ: `bottega.compare_adapters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.errors import RecipeError
from bottega.exporting._lora import ExportedLora, open_adapter, open_adapters, shared_base
from bottega.exporting._source import open_trained
from bottega.models.low_rank import LowRankUpdate


@dataclass(frozen=True)
class AdapterComparison:
    """Adapters by what they add to the weights of their base, ΔW of every layer, all layers as one long vector.

    names    of the adapters
    base     what all of them were trained on
    sizes    ‖ΔW‖ of each
    cosines  [n, n] the cosine of each pair: 1 for the same direction, 0 for updates that do not disturb each other
    layers   for each layer the cosine of the first two there
    """

    names: Sequence[str]
    base: str
    sizes: Sequence[float]
    cosines: Sequence[Sequence[float]]
    layers: Mapping[str, float]

    def document(self) -> dict[str, Any]:
        """It as plain data."""
        return asdict(self)


def compare_adapters(adapters: Sequence[str]) -> AdapterComparison:
    """Compare LoRA adapters of one base, runs or folders; a ModelError if they are none, or of different bases."""
    if len(adapters) < 2:
        raise RecipeError("fewer than two adapters", where="adapters", fix="name the others behind it")
    base = shared_base([open_adapter(adapters[0])])
    loras = open_adapters(open_trained(base.source.base), list(adapters))
    layers = sorted({layer for lora in loras for layer in lora.updates})
    products = {layer: _products(loras, layer) for layer in layers}  # [n, n] each
    total = np.sum(list(products.values()), axis=0)
    return AdapterComparison(
        [lora.name for lora in loras],
        base.source.base,
        np.sqrt(np.diag(total)).tolist(),
        _cosines(total).tolist(),
        {layer: float(_cosines(matrix)[0, 1]) for layer, matrix in products.items()},
    )


def _products(loras: Sequence[ExportedLora], layer: str) -> NDArray[np.float64]:
    """[n, n] ⟨ΔWᵢ, ΔWⱼ⟩ of one layer; no ΔW is made: ⟨b a, d c⟩ = tr((bᵀ d)(c aᵀ))."""
    updates = [lora.updates.get(layer) for lora in loras]
    return np.array([[_product(one, other) for other in updates] for one in updates])


def _product(one: LowRankUpdate | None, other: LowRankUpdate | None) -> float:
    if one is None or other is None:
        return 0.0
    inner = one.b.T.astype(np.float64) @ other.b  # [r, r']
    return float((inner * (one.a.astype(np.float64) @ other.a.T)).sum())


def _cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    sizes = np.sqrt(np.diag(products))
    cosines: NDArray[np.float64] = products / np.maximum(np.outer(sizes, sizes), np.finfo(float).tiny)
    return cosines
