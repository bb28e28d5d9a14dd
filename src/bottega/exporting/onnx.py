"""ONNX: a graph for ONNX Runtime, of any model that torch can trace, with the names that optimum gives its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from bottega.errors import ModelError
from bottega.exporting import ExportedLora, ExportFormat, TrainedModel
from bottega.inference.runtimes.onnx import ADAPTER, MODEL
from bottega.models import heads


class Onnx(ExportFormat):
    """`model.onnx` with its weights beside it; of an encoder–decoder, a graph of each half."""

    title: ClassVar[str] = "ONNX"
    runtime: ClassVar[str] = "onnx"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8", "int4")
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra: ClassVar[str] = "onnx"
    library: ClassVar[str] = "onnx"
    usage: ClassVar[str] = """In Python, with the names of inputs and outputs that optimum uses:

```python
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
print([each.name for each in session.get_inputs()])
```"""

    adapter_usage: ClassVar[str] = """In Python, for each call of the session of the base:

```python
import onnxruntime
adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
adapter.Load("adapter.onnx_adapter")
options.add_active_adapter(adapter)
```"""

    def refusal(self, model: TrainedModel) -> str:
        if not model.generates or model.config.is_encoder_decoder:
            return ""
        auto = heads.load(model.head).auto_class(model.config)
        network = auto._model_mapping.get(type(model.config), None)
        if network is None:
            return f"transformers has no {auto.__name__} for {model.config.model_type}"
        taken = inspect.signature(network.forward).parameters
        return "" if "past_key_values" in taken else "it keeps a state of another kind than keys and values"

    def write(self, model: TrainedModel, folder: Path, precision: str) -> None:
        self._write(model, [], folder, precision)

    def write_with_adapters(
        self, model: TrainedModel, loras: Sequence[ExportedLora], folder: Path, precision: str
    ) -> None:
        from bottega.exporting._onnx_lora import open_places, write_loras

        if model.config.is_encoder_decoder or not model.generates:
            what = "only decoders that generate text have places for adapters here"
            raise ModelError(what, where=model.name, fix="export each run by itself")
        # Only after the weights are quantized, or those of the places would be as well.
        open_places(folder / MODEL, self._write(model, loras, folder, precision))
        write_loras(loras, [folder / lora.folder / ADAPTER for lora in loras])

    def _write(self, model: TrainedModel, loras: Sequence[ExportedLora], folder: Path, precision: str) -> Sequence[str]:
        """Write the graphs; the names of the inputs that are weights of adapters."""
        from bottega.exporting._onnx_graph import write_graphs
        from bottega.exporting._onnx_lora import install_places
        from bottega.exporting._onnx_weights import quantize

        network = model.merged(torch.float32).eval()
        model.write_settings(network, folder)
        _prepare(network)
        places = install_places(network, loras) if loras else []
        for path in write_graphs(network, folder, places, generates=model.generates):
            if precision != "fp32":
                quantize(path, {"int8": 8, "int4": 4}[precision])
        return places


def _prepare(network: Any) -> None:
    """Choose implementations that can be traced."""
    # T5's sdpa cannot be traced.
    fast = network._supports_sdpa and not network.config.is_encoder_decoder
    network.set_attn_implementation("sdpa" if fast else "eager")
    _replace_conv1d(network)
    if hasattr(network, "set_experts_implementation"):
        # The default selects the tokens of each expert, which has no fixed shapes.
        network.set_experts_implementation("batched_mm")


def _replace_conv1d(network: Any) -> None:
    """GPT-2's transposed linear layers as plain ones: only these become products that can be quantized."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(network.named_modules()):
        if isinstance(module, Conv1D):
            linear = torch.nn.Linear(*module.weight.shape)
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data
            network.set_submodule(name, linear.eval())
