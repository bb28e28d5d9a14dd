"""A base model quantized while it is read, so that at most one of its weights is in memory unquantized."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from bottega.hardware.memory import return_freed
from bottega.models.quantization.linear import LINEAR_CLASSES, quantizable_layers

# Weights after which freed memory is given back.
READ_AT_ONCE = 4

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


def load_quantized(auto: Any, folder: Path, config: Any, dtype: torch.dtype, kind: str) -> Any | None:
    """The model in `folder`, its linear layers quantized one by one as their weights are read.

    None if there is more to loading it: weights that transformers renames, merges, initializes or keeps in float32.
    """
    from accelerate import init_empty_weights

    files = weight_files(folder)
    if files is None:
        return None
    # Weights on the meta device; buffers are computed, as no checkpoint holds them.
    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    if getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None):
        return None
    model.tie_weights()
    quantizable = set(quantizable_layers(model, kind, []))
    missing = dict(model.named_parameters())
    for number, (key, tensor) in enumerate(read_tensors(files), 1):
        if key not in missing or missing[key].shape != tensor.shape:
            return None
        del missing[key]
        _set_weight(model, key, tensor.to(dtype), kind if key.removesuffix(".weight") in quantizable else None)
        if number % READ_AT_ONCE == 0:
            # What is kept lies between what is freed, and the heap would grow to several times as much.
            return_freed()
    if missing:
        return None
    # Again: the weights tied above were replaced by those read.
    model.tie_weights()
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model.eval()


def weight_files(folder: Path) -> list[Path] | None:
    """The weight files of a checkpoint; None if they are not where transformers writes them."""
    if (folder / INDEX_FILE).exists():
        names = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    return [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).exists() else None


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of the files."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
        for name in names:
            # Opened again for each, or the memory map would keep all that was read before.
            with safe_open(file, framework="pt") as opened:
                yield name, opened.get_tensor(name)


def _set_weight(model: nn.Module, key: str, tensor: Tensor, kind: str | None) -> None:
    """Set a weight of the model; with `kind`, replace its layer by a quantized one."""
    path, _, name = key.rpartition(".")
    module = model.get_submodule(path)
    if kind is None:
        module.register_parameter(name, nn.Parameter(tensor.clone()))
        return
    assert isinstance(module, nn.Linear)
    parent, _, attribute = path.rpartition(".")
    module.weight = nn.Parameter(tensor, requires_grad=False)
    setattr(model.get_submodule(parent), attribute, LINEAR_CLASSES[kind](module))
