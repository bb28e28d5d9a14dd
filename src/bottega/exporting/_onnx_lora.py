"""LoRA adapters for ONNX Runtime: a graph in which their weights are inputs that are zero by default, a file of each.

Legend: r the largest rank of all adapters, I inputs of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bottega.exporting import ExportedLora
from bottega.models.low_rank import LowRankUpdate

Weight = NDArray[np.float32]


class PlaceForLora(nn.Module):
    """A linear layer with the product of two matrices beside it: a [I, r] and b [r, O], which are zero."""

    def __init__(self, layer: nn.Module, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.a, self.b = nn.Parameter(torch.zeros(inputs, rank)), nn.Parameter(torch.zeros(rank, outputs))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output + x @ self.a @ self.b


def install_places(network: nn.Module, loras: Sequence[ExportedLora]) -> list[str]:
    """Make a place at every layer that one of the adapters changes; the names of the new weights."""
    layers = {name: update for lora in loras for name, update in lora.updates.items()}
    for name, update in layers.items():
        place = PlaceForLora(network.get_submodule(name), update.a.shape[1], len(update.b), largest_rank(loras))
        network.set_submodule(name, place.eval())
    return [f"{name}.{part}" for name in layers for part in "ab"]


def open_places(path: Path, names: Sequence[str]) -> None:
    """Give inputs of a graph zeros, which are used unless an adapter is."""
    import onnx
    from onnx import numpy_helper

    # The other weights stay where they are, in the file beside the graph.
    model = onnx.load(path, load_external_data=False)
    shapes = {each.name: [size.dim_value for size in each.type.tensor_type.shape.dim] for each in model.graph.input}
    model.graph.initializer.extend(numpy_helper.from_array(np.zeros(shapes[name], np.float32), name) for name in names)
    onnx.save(model, path)


def largest_rank(loras: Sequence[ExportedLora]) -> int:
    """The rank that places for all of them have."""
    return max(lora.rank for lora in loras)


def filled(update: LowRankUpdate, rank: int) -> tuple[Weight, Weight]:
    """(a [I, r], b [r, O]) with zeros up to the rank."""
    missing = rank - len(update.a)
    a, b = np.pad(update.a, [(0, missing), (0, 0)]), np.pad(update.b, [(0, 0), (0, missing)])
    return np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)


def write_loras(loras: Sequence[ExportedLora], paths: Sequence[Path]) -> None:
    """Write each adapter for a graph with the places of `install_places`."""
    for lora, path in zip(loras, paths, strict=True):
        weights = {}
        for layer, update in lora.updates.items():
            weights[f"{layer}.a"], weights[f"{layer}.b"] = filled(update, largest_rank(loras))
        path.parent.mkdir(parents=True)
        write_adapter_file(weights, path)


def write_adapter_file(weights: Mapping[str, Weight], path: Path) -> None:
    """Write values of a graph's inputs in the format of ONNX Runtime's adapters."""
    from onnxruntime import AdapterFormat, OrtValue

    values: dict[str, Any] = {name: OrtValue.ortvalue_from_numpy(weight) for name, weight in weights.items()}
    file = AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(values)
    file.export_adapter(str(path))
