"""LoRA that starts elsewhere than at zero, with a base that stays as it is.

PiSSA (Meng et al. 2024, arXiv 2404.02948) starts B A at the largest singular values of a weight W, and takes them out
of W. Here W stays whole, and the start is subtracted beside it, by a second adapter that is frozen:

    y = W x + s (B A - B₀ A₀) x

Training is the same, and nothing else is: W is not rounded once more, may be kept in four bits, and is what remains
when the adapter is switched off. What is saved is LoRA of twice the rank, which needs no other file than its base.

LoftQ (Li et al. 2023, arXiv 2310.08659) starts B A at what a weight lost when it was quantized to Q, so that
y = Q x + s B A x is near W x before any training. What is saved belongs on Q. The start is kept in a folder beside it,
since on W only the difference belongs, as above. The quantized weights are those of one pass: more would have Q
differ from what the base alone gives.

Legend: r rank, I inputs of a layer, O outputs, s its scale.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.tuners.lora import Linear, LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from bottega.adapters._base import CONFIG, WEIGHTS
from bottega.adapters._peft import ACTIVE, REFERENCE, START
from bottega.errors import ModelError

# Passes of the randomized decomposition over a weight, and singular values beyond those wanted. More would change
# the start a little, and it is subtracted as it is.
PASSES, SPARE = 4, 8

# The file beside a start that names the form of the weights for which it makes up.
FORM = "quantized.txt"


@torch.no_grad()
def start_at_principal_part(model: Any) -> None:
    """Let every LoRA layer of a PeftModel start at the principal part of its weight; a ModelError if one has none."""
    layers = _linear_layers(model)
    _add_frozen(model, layers, START)
    for layer in layers.values():
        _start(layer, _weight(layer), {START: -1})
        # Each layer, and not the model: a head trained beside it has one adapter only.
        layer.set_adapter([ACTIVE, START])
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[START].requires_grad_(False)


@torch.no_grad()
def start_at_lost_part(model: Any, weights: Iterable[tuple[str, Tensor]], *, reference: bool) -> None:
    """Let every LoRA layer of a PeftModel start at what its weight lost when it was quantized.

    weights    of the base by name, before they were quantized; others may be among them
    reference  keep a copy of the start as it is

    Raises a ModelError for a layer whose weight is not among them.
    """
    layers = _linear_layers(model)
    signs = {START: -1, **({REFERENCE: 1} if reference else {})}
    for name in signs:
        _add_frozen(model, layers, name)
    # What is not quantized has lost nothing, and starts as it always does.
    missing = {name: layer for name, layer in layers.items() if is_quantized(layer.get_base_layer())}
    for name, weight in weights:
        if (layer := missing.pop(name.removesuffix(".weight"), None)) is not None:
            quantized = _weight(layer)
            _start(layer, weight.to(quantized.device).float() - quantized, signs)
    if missing:
        example = next(iter(missing))
        what = f"{len(missing)} layers have other names in the checkpoint than in the model, {example} for one"
        raise ModelError(what, where="adapter.init", fix="leave init out")


def _linear_layers(model: Any) -> dict[str, Linear]:
    """The LoRA layers of a PeftModel by their names in its base; a ModelError if one of them is not linear."""
    named = model.get_base_model().named_modules()
    layers = {name: module for name, module in named if isinstance(module, LoraLayer)}
    if odd := next((layer for layer in layers.values() if not isinstance(layer, Linear)), None):
        what = f"only linear layers can start elsewhere than at zero, and not {type(odd.get_base_layer()).__name__}"
        raise ModelError(what, where="adapter.init", fix="name linear layers in adapter.targets, or leave init out")
    return layers


def _add_frozen(model: Any, layers: Mapping[str, Linear], name: str) -> None:
    """Add a second LoRA like the trained one, for the start, to the layers that have one."""
    config = replace(model.peft_config[ACTIVE], modules_to_save=None, lora_dropout=0.0)
    model.peft_config[name] = config
    for layer in layers.values():
        rank = layer.r[ACTIVE]
        layer.update_layer(name, rank, layer.lora_alpha[ACTIVE], config)
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[name].to(matrices[ACTIVE].weight).requires_grad_(False)


def _start(layer: Linear, matrix: Tensor, signs: Mapping[str, int]) -> None:
    """Let s B A of a layer be the principal part of a matrix [O, I], and that of frozen adapters the same, signed."""
    a, b = _principal_part(matrix, layer.r[ACTIVE])
    scale = layer.scaling[ACTIVE] ** -0.5
    for name, sign in {ACTIVE: 1, **signs}.items():
        layer.lora_A[name].weight.copy_(a * scale)
        layer.lora_B[name].weight.copy_(b * (sign * scale))


def _principal_part(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[O, I] → (A [r, I], B [O, r]), of which B A is the best approximation of rank r; zeros beyond its own rank."""
    largest = min(weight.shape)
    u, s, v = torch.svd_lowrank(weight, q=min(rank + SPARE, largest), niter=PASSES)
    root = s[:rank].sqrt()
    a, b = weight.new_zeros(rank, weight.shape[1]), weight.new_zeros(weight.shape[0], rank)
    a[: len(root)], b[:, : len(root)] = (v[:, :rank] * root).T, u[:, :rank] * root
    return a, b


def _weight(layer: Linear) -> Tensor:
    """[O, I] the weight of the base of a LoRA layer in float32, computed if it is kept in another form."""
    base: Any = layer.get_base_layer()
    weight: Tensor = base.whole_weight() if hasattr(base, "whole_weight") else base.weight
    return (weight.T if layer.fan_in_fan_out else weight).float()


def is_quantized(module: Any) -> bool:
    """Whether a layer, or one of a model, keeps its weight quantized."""
    return any(getattr(layer, "is_quantized", False) for layer in module.modules())


def write_start(model: Any, folder: Path) -> None:
    """Write the start of a PeftModel's adapter to where PEFT wrote that: into it if it is subtracted, or beside."""
    model.save_pretrained(str(folder), selected_adapters=[START], save_embedding_layers=False)
    layers = _linear_layers(model)
    if any(START in layer.active_adapters for layer in layers.values()):
        subtract_start(folder, folder)
        shutil.rmtree(folder / START)
    else:
        (folder / START / FORM).write_text(_form(model), encoding="utf-8")


@torch.no_grad()
def restore_start(model: Any, folder: Path) -> None:
    """Take the start that `write_start` wrote: computed again, it might differ in its last digits."""
    beside = (folder / START / WEIGHTS).is_file()
    saved = load_file(folder / START / WEIGHTS if beside else folder / WEIGHTS)
    own = get_peft_model_state_dict(model, adapter_name=START, save_embedding_layers=False)
    for name, value in own.items():
        if ".lora_" in name:
            rank = 0 if beside else -(len(value) if ".lora_A." in name else value.shape[1])
            value.copy_(saved[name][rank:] if ".lora_A." in name else saved[name][:, rank:])
    for layer in _linear_layers(model).values():
        if REFERENCE in layer.lora_A:
            layer.lora_A[REFERENCE].weight.copy_(layer.lora_A[START].weight)
            layer.lora_B[REFERENCE].weight.copy_(-layer.lora_B[START].weight)


def check_form(model: Any, folder: Path) -> None:
    """A ModelError unless the weights of a model are in the form whose loss the start in a folder makes up for."""
    wanted = (folder / START / FORM).read_text(encoding="utf-8")
    if _form(model) != wanted:
        what = f"its start makes up for what weights lose as {wanted}, and these are {_form(model)}"
        raise ModelError(what, where=str(folder), fix="give model.quantize as it was, or none")


def _form(model: Any) -> str:
    """The class of the quantized layers of a model."""
    classes = {type(layer).__name__ for layer in model.modules() if getattr(layer, "is_quantized", False)}
    return ", ".join(sorted(classes))


def subtract_start(source: Path, folder: Path) -> None:
    """Write a saved adapter less the start beside it into a folder, as LoRA of twice the rank."""
    weights = load_file(source / WEIGHTS)
    for name, value in load_file(source / START / WEIGHTS).items():
        if ".lora_" in name:
            weights[name] = torch.cat([weights[name], value], 0 if ".lora_A." in name else 1)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **dict(_doubled(config))}, indent=2), encoding="utf-8")


def _doubled(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of PEFT for twice the rank and the same scale, which is alpha / r, or alpha / √r for rsLoRA."""
    alpha_factor = 2**0.5 if config["use_rslora"] else 2
    yield "r", 2 * config["r"]
    yield "lora_alpha", alpha_factor * config["lora_alpha"]
    yield "rank_pattern", {name: 2 * rank for name, rank in config["rank_pattern"].items()}
    yield "alpha_pattern", {name: alpha_factor * alpha for name, alpha in config["alpha_pattern"].items()}
