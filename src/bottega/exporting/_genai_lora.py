"""LoRA adapters for ONNX Runtime GenAI: one graph with places for all of them, and a file of each.

Its builder adds the adapter that it is given to the graph. It is given one that has every layer that any of the
adapters has, at the largest of their ranks; its weights then become inputs of the graph that are zero unless an adapter
is in use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bottega.adapters import CONFIG
from bottega.errors import ModelError
from bottega.exporting import ExportedLora
from bottega.exporting._onnx_lora import filled, largest_rank, write_adapter_file
from bottega.models.dimensions import head_width
from bottega.models.low_rank import LowRankUpdate

Weight = NDArray[np.float32]

# Layers that the builder takes adapters of.
LAYER = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+")


def write_places(loras: Sequence[ExportedLora], folder: Path) -> list[str]:
    """Write a PEFT adapter of zeros with all layers of the adapters; the names of its layers."""
    rank = largest_rank(loras)
    layers = {name: update for lora in loras for name, update in lora.updates.items()}
    zeros = {}
    for name, update in layers.items():
        zeros[f"base_model.model.{name}.lora_A.weight"] = np.zeros([rank, update.a.shape[1]], np.float32)
        zeros[f"base_model.model.{name}.lora_B.weight"] = np.zeros([update.b.shape[0], rank], np.float32)
    folder.mkdir()
    save_file(zeros, folder / "adapter_model.safetensors")
    config = {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True},
        **{"r": rank, "lora_alpha": rank, "target_modules": sorted(layers)},
        **{"base_model_name_or_path": "", "bias": "none"},
    }
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return sorted(layers)


def excluded_nodes(layers: Sequence[str], config: Any) -> list[str]:
    """The nodes that multiply by an adapter, which are not to be quantized."""
    names = [name for layer in layers for name in _builder_layers(layer, config)]
    return ["/" + re.sub(r"\.(?!\d)", "/", name) + f"/lora_{part}/MatMul" for name in names for part in "AB"]


def open_places(path: Path) -> set[str]:
    """Make every weight of the adapter in a graph an input that is zero by default; their names."""
    import onnx
    from onnx import helper, numpy_helper

    # The other weights stay where they are, in the file beside the graph.
    model = onnx.load(path, load_external_data=False)
    places = {each.name for each in model.graph.initializer if ".lora_" in each.name}
    for each in model.graph.initializer:
        if each.name in places:
            shape = list(each.dims)
            each.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), each.name))
            model.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, shape))
    onnx.save(model, path)
    return places


def write_lora(lora: ExportedLora, rank: int, places: set[str] | None, config: Any, path: Path) -> None:
    """Write an adapter for a graph with these places, if they are known; a ModelError if it lacks one."""
    weights = dict(_weights(lora.updates, rank, config))
    if places is not None and (lost := sorted(weights.keys() - places)):
        raise ModelError(f"the builder made no place for {lost[0]}", where=lora.name, fix="export the run by itself")
    write_adapter_file(weights, path)


def write_loras(loras: Sequence[ExportedLora], places: set[str], config: Any, paths: Sequence[Path]) -> None:
    """Write each adapter into its file."""
    for lora, path in zip(loras, paths, strict=True):
        path.parent.mkdir(parents=True)
        write_lora(lora, largest_rank(loras), places, config, path)


def _weights(updates: Mapping[str, LowRankUpdate], rank: int, config: Any) -> Iterator[tuple[str, Weight]]:
    """(the graph's name, weight as [inputs, outputs]) of both matrices of each layer, with zeros up to the rank."""
    for layer, update in updates.items():
        a, b = filled(update, rank)
        for name, outputs in _builder_layers(layer, config).items():
            yield f"{name}.lora_A.MatMul.weight", a
            yield f"{name}.lora_B.MatMul.weight", np.ascontiguousarray(b[:, outputs])


def _builder_layers(layer: str, config: Any) -> dict[str, slice]:
    """The layers that the builder makes of a layer, and the outputs of each: it splits Phi-3's."""
    if not LAYER.fullmatch(layer):
        raise ModelError(
            f"ONNX Runtime GenAI has no place for {layer}", where="its adapter", fix="export the run by itself"
        )
    parent, _, name = layer.replace("self_attn", "attn").rpartition(".")
    queries, keys = (heads * head_width(config) for heads in (config.num_attention_heads, config.num_key_value_heads))
    parts = {
        "qkv_proj": {"q_proj": queries, "k_proj": keys, "v_proj": keys},
        "gate_up_proj": {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size},
    }
    if name not in parts:
        return {f"{parent}.{name}": slice(None)}
    ends = np.cumsum([0, *parts[name].values()])
    return {
        f"{parent}.{part}": slice(start, stop)
        for part, start, stop in zip(parts[name], ends[:-1], ends[1:], strict=True)
    }
