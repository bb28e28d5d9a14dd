"""ONNX Runtime GenAI: its own model builder, for the families it knows; the fastest graphs for a CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch

from bottega.errors import ModelError
from bottega.exporting import ExportedLora, ExportFormat, TrainedModel
from bottega.inference.runtimes.onnx import ADAPTER, MODEL
from bottega.models.config import position_limit
from bottega.models.dimensions import attention_window, head_width
from bottega.models.generation_config import make_saveable
from bottega.models.tokenizer import tokenizer_json

# Model types that the builder takes and that were compared with the trained model.
FAMILIES = ("ernie4_5", "granite", "hunyuan_v1_dense", "llama", "mistral", "phi3", "qwen2", "qwen3")


class GenAi(ExportFormat):
    """`model.onnx` with `genai_config.json` and the tokenizer."""

    title: ClassVar[str] = "ONNX Runtime GenAI"
    runtime: ClassVar[str] = "genai"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8", "int4")
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime_genai", "onnx_ir")
    extra: ClassVar[str] = "onnx"
    library: ClassVar[str] = "onnx"
    usage: ClassVar[str] = """In Python:

```python
import onnxruntime_genai as og
model = og.Model(".")
tokenizer, parameters = og.Tokenizer(model), og.GeneratorParams(model)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode("…"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
```"""

    adapter_usage: ClassVar[str] = """In Python:

```python
import onnxruntime_genai as og
model = og.Model("../..")
adapters = og.Adapters(model)
adapters.load("adapter.onnx_adapter", "this")
generator = og.Generator(model, og.GeneratorParams(model))
generator.set_active_adapter(adapters, "this")
```"""

    def refusal(self, model: TrainedModel) -> str:
        if not model.generates:
            return "it runs language models only"
        kind = model.config.model_type
        if kind not in FAMILIES:
            return f"its builder does not take {kind}; it takes {', '.join(FAMILIES)}"
        if tokenizer_json(model.tokenizer)["model"]["type"] == "WordLevel":
            return "it has no tokenizers of whole words"
        # The builder writes graphs of both kinds; running the first fails, and the second for prompts over the window.
        width = head_width(model.config)
        if width % 16:
            return f"its attention has heads of {width}, and only multiples of 16 are computed"
        window, limit = attention_window(model.config), position_limit(model.config)
        if window is not None and (limit is None or window < limit):
            return f"its attention sees {window} tokens, and a longer prompt fails"
        return ""

    def write(self, model: TrainedModel, folder: Path, precision: str) -> None:
        self._write(model, [], folder, precision)

    def write_with_adapters(
        self, model: TrainedModel, loras: Sequence[ExportedLora], folder: Path, precision: str
    ) -> None:
        from bottega.exporting._genai_lora import open_places, write_loras

        self._write(model, loras, folder, precision)
        places = open_places(folder / MODEL)
        write_loras(loras, places, model.config, [folder / lora.folder / ADAPTER for lora in loras])

    def _write(self, model: TrainedModel, loras: Sequence[ExportedLora], folder: Path, precision: str) -> None:
        from bottega.exporting._genai_lora import excluded_nodes, write_places

        # Inside the folder: what a killed process leaves is removed with it.
        with TemporaryDirectory(dir=folder) as temporary:
            merged, places = Path(temporary, "merged"), Path(temporary, "places")
            network = model.merged(torch.float32)
            _check_widths(network)
            make_saveable(network)
            network.save_pretrained(str(merged))
            model.write_settings(network, merged)
            extra = {}
            if loras:
                layers = write_places(loras, places)
                extra["adapter_path"] = str(places)
                if precision != "fp32":
                    extra["nodes_to_exclude"] = ",".join(excluded_nodes(layers, model.config))
            _build(merged, folder, precision, extra)
        model.write_settings(network, folder)


def _build(merged: Path, folder: Path, precision: str, extra: Mapping[str, str]) -> None:
    with TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(merged), "-o", str(folder), "-p", precision, "-e", "cpu", "-c", cache]
        if extra:
            command += ["--extra_options", *(f"{key}={value}" for key, value in extra.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"the builder of ONNX Runtime GenAI failed: {reason}", where="genai", fix="export it --to onnx"
        )


def _check_widths(network: Any) -> None:
    """Refuse a model of which the builder would take another layer for the head, and say nothing."""
    head = network.get_output_embeddings()
    vocabulary = network.config.get_text_config().vocab_size
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head and module.out_features == vocabulary:
            what = f"{name} is as wide as the vocabulary, {vocabulary}, and the builder would take it for the head"
            raise ModelError(what, where="genai", fix="export it --to onnx")
