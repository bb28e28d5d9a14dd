"""A base packed while it is read, so that no more than one of its weights is ever whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from bottega.models.quantization.linear import LINEAR_CLASSES, quantizable_layers

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


def load_quantized(auto: Any, folder: Path, config: Any, dtype: torch.dtype, kind: str) -> Any | None:
    """The model in `folder`, its linear layers packed one by one as their weights come.

    None where that is not all there is to reading it: weights that transformers renames, merges or draws anew, or
    keeps in another dtype.
    """
    from accelerate import init_empty_weights

    files = _weight_files(folder)
    if files is None:
        return None
    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    if getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None):
        return None
    model.tie_weights()
    wanted = set(quantizable_layers(model, kind, []))
    lacking = dict(model.named_parameters())
    for key, tensor in _read_tensors(files):
        if key not in lacking or lacking[key].shape != tensor.shape:
            return None
        del lacking[key]
        _set_weight(model, key, tensor.to(dtype), kind if key.removesuffix(".weight") in wanted else None)
    if lacking:
        return None
    model.tie_weights()
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model.eval()


def _weight_files(folder: Path) -> list[Path] | None:
    """The files of a checkpoint; None where they are not where transformers writes them."""
    if (folder / INDEX_FILE).exists():
        names = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    return [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).exists() else None


def _read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by its name. A file is opened for each, so that what was read before does not stay mapped."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
        for name in names:
            with safe_open(file, framework="pt") as opened:
                yield name, opened.get_tensor(name)


def _set_weight(model: nn.Module, key: str, tensor: Tensor, kind: str | None) -> None:
    """A weight in its place; packed, with the layer it belongs to, where a kind is given."""
    path, _, name = key.rpartition(".")
    module = model.get_submodule(path)
    if kind is None:
        module.register_parameter(name, nn.Parameter(tensor.clone()))
        return
    assert isinstance(module, nn.Linear)
    parent, _, place = path.rpartition(".")
    module.weight = nn.Parameter(tensor, requires_grad=False)
    setattr(model.get_submodule(parent), place, LINEAR_CLASSES[kind](module))
