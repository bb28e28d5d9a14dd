"""GGUF: one file with weights, tokenizer and chat template for llama.cpp, Ollama and LM Studio."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bottega.errors import ModelError
from bottega.exporting import PRECISIONS, ExportedLora, ExportFormat, Precision, TrainedModel, _gguf_tokenizer
from bottega.exporting._gguf_families import FAMILIES, Family, Weight
from bottega.inference.runtimes import install_command, is_installed
from bottega.inference.runtimes.llama_cpp import ADAPTER, FILE
from bottega.recipe.files import without_folders

# In float32, before llama.cpp quantizes it.
WHOLE = "whole.gguf"

# Precision → names in the gguf package: of the weights' type, and of the file's.
TYPES = {
    "fp32": ("F32", "ALL_F32"),
    "fp16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
    # Mixes blocks of 4 and 6 bits, which only llama.cpp itself can write.
    "q4_k_m": ("F32", "MOSTLY_Q4_K_M"),
}


class Gguf(ExportFormat):
    """`model.gguf`."""

    title: ClassVar[str] = "GGUF"
    runtime: ClassVar[str] = "llama_cpp"
    precisions: ClassVar[tuple[str, ...]] = tuple(TYPES)
    packages: ClassVar[tuple[str, ...]] = ("gguf",)
    extra: ClassVar[str] = "gguf"
    library: ClassVar[str] = "gguf"
    usage: ClassVar[str] = """With llama.cpp: `llama-cli -m model.gguf`. With Ollama: `ollama create NAME -f Modelfile`,
where the file Modelfile says `FROM ./model.gguf`."""
    adapter_usage: ClassVar[str] = """With llama.cpp: `llama-cli -m ../../model.gguf --lora adapter.gguf`. With Ollama:
`ADAPTER ./adapter.gguf` in the Modelfile of the base."""

    def refusal(self, model: TrainedModel) -> str:
        if not model.generates:
            return "it is written for language models only"
        family = FAMILIES.get(model.config.model_type)
        if family is None:
            return f"{model.config.model_type} is not among {', '.join(FAMILIES)}"
        if not model.ends:
            return "no token ends its answers, and llama.cpp would choose one"
        return family().refusal(model.config) or _gguf_tokenizer.refusal(model.tokenizer)

    def bounds(self, model: TrainedModel, precision: str) -> Precision:
        bounds = PRECISIONS[precision]
        if bounds.difference is None:
            return bounds
        return replace(bounds, difference=FAMILIES[model.config.model_type].rounding)

    def write(self, model: TrainedModel, folder: Path, precision: str) -> None:
        from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

        # It tells of every step.
        logging.getLogger("gguf").setLevel(logging.ERROR)
        quantizes = precision == "q4_k_m"
        if quantizes and not is_installed("llama_cpp"):
            what = "only llama.cpp itself writes this precision, and it is not installed"
            raise ModelError(what, where="gguf", fix=f"{install_command('gguf')}, or choose q4_0")
        network = model.merged(torch.float32)
        config, family = network.config, FAMILIES[network.config.model_type]()
        weight_type, file_type = TYPES[precision]
        written = folder / (WHOLE if quantizes else FILE)
        writer = GGUFWriter(written, family.architecture)
        writer.add_name(_gguf_tokenizer.model_name(without_folders(model.name), model.tokenizer))
        writer.add_file_type(LlamaFileType["ALL_F32" if quantizes else file_type])
        writer.add_quantization_version(2)
        family.write_settings(writer, config)
        _gguf_tokenizer.write_tokenizer(writer, model.tokenizer, config.vocab_size, model.ends)
        for name, weight in _weights(family, network):
            _add(writer, name, weight, GGMLQuantizationType[weight_type])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if quantizes:
            _quantize(written, folder / FILE, LlamaFileType[file_type])
            written.unlink()
        model.write_settings(network, folder)

    def write_with_adapters(
        self, model: TrainedModel, loras: Sequence[ExportedLora], folder: Path, precision: str
    ) -> None:
        from bottega.exporting._gguf_lora import write_lora

        self.write(model, folder, precision)
        family = FAMILIES[model.config.model_type]()
        for lora in loras:
            (folder / lora.folder).mkdir(parents=True)
            write_lora(lora, family, model.config, _names(family, model.config), folder / lora.folder / ADAPTER)


def _names(family: Family, config: Any) -> Any:
    """The map from transformers' names of weights to llama.cpp's."""
    import gguf

    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    return gguf.get_tensor_name_map(architecture, config.num_hidden_layers)


def _weights(family: Family, network: Any) -> Iterator[tuple[str, Weight]]:
    """(llama.cpp's name, weight) of every weight of the file; a tied head is left out."""
    names = _names(family, network.config)
    head, embeddings = network.get_output_embeddings(), network.get_input_embeddings()
    tied = head.weight is embeddings.weight
    saved = {
        name: weight.detach().float().numpy()
        for name, weight in network.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    for name, weight in family.weights(saved, network.config):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"llama.cpp has no place for {name}", where="gguf", fix="export it --to onnx or merged")
        yield found, weight
    yield from family.extra_weights(network.config)


def _add(writer: Any, name: str, weight: Weight, kind: Any) -> None:
    """Add a weight to the file. Vectors and tables of positions stay in float32, as llama.cpp reads them."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    whole = (
        weight.ndim == 1 or not name.endswith(".weight") or name.startswith("position_embd") or "ffn_gate_inp" in name
    )
    kind = GGMLQuantizationType.F32 if whole else kind
    # Rows of another length than whole blocks cannot be quantized.
    if weight.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16
    data = quants.quantize(np.ascontiguousarray(weight), kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def _quantize(source: Path, target: Path, file_type: int) -> None:
    """Quantize a file with llama.cpp."""
    import ctypes

    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = file_type, torch.get_num_threads()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise ModelError("llama.cpp cannot quantize this model", where="gguf", fix="choose q8_0 or q4_0")
