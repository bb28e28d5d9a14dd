"""What a run cannot do without, counted from its recipe before any weight is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bottega.errors import OutOfMemory
from bottega.models.checkpoint import body
from bottega.models.dimensions import hidden_width, layer_count, vocabulary_size
from bottega.models.quantization.linear import BYTES_PER_WEIGHT
from bottega.recipe.schema import Recipe

# Fewest and most tokens of a micro-batch where the recipe does not say.
#
# On a CPU 2,048 were 7 % faster than 4,096, whose numbers leave its cache. An H200 waited for its host with 4,096, and
# did 2.6 and 3.3 times as much with 16,384 and 40,960.
FEW, MANY = 2048, 32768

# Part of what weights and optimiser leave that activations may take, and about how many bytes those of a token are for
# each layer and each number of its width: on an H200 it was 32 for 1 B and 31 for 7 B, with LoRA.
SHARE, OF_TOKEN = 0.6, 40


class Counts(NamedTuple):
    """Weights of a model: all, those of linear layers in its body, and those that are trained."""

    total: int
    linear: int
    trained: int


def counts(recipe: Recipe, config: Any) -> Counts:
    """How many weights there are, counted without making any."""
    total, layers = _sizes(config)
    if not getattr(config, "tie_word_embeddings", True) and recipe.objective.head == "language":
        total += vocabulary_size(config) * hidden_width(config)
    linear = sum(inputs * outputs for inputs, outputs in layers)
    return Counts(total, linear, total if recipe.adapter is None else recipe.adapter.count(layers))


_KNOWN: dict[str, tuple[int, list[tuple[int, int]]]] = {}


def _sizes(config: Any) -> tuple[int, list[tuple[int, int]]]:
    """The number of weights of a model, and the (input, output) widths of its linear layers; each config once."""
    name = config.to_json_string(use_diff=False)
    if name not in _KNOWN:
        with torch.device("meta"):
            model = body(config)
        layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        widths = [(layer.in_features, layer.out_features) for layer in layers]
        _KNOWN[name] = sum(weight.numel() for weight in model.parameters()), widths
    return _KNOWN[name]


def parts(recipe: Recipe, config: Any, size: int) -> dict[str, int]:
    """Bytes of what stays through an update, at `size` bytes a weight; activations come on top."""
    total, linear, trained = counts(recipe, config)
    packed = BYTES_PER_WEIGHT[recipe.model.quantize]
    weights = round(total * size - (0 if packed is None else linear * (size - packed)))
    full = recipe.adapter is None
    moments = 4 if recipe.optim.optimizer == "muon" else 8
    # A large bfloat16 weight keeps the lower half of its master beside it, a small one a float32 copy.
    master = 0 if size == 4 else 2 if full else 4
    copies = 1 if full and (recipe.objective.compares_with_reference or recipe.uses_anchor) else 0
    return {
        "weights": weights,
        "reference": copies * weights,
        "gradients": trained * (size if full else 4),
        "optimiser": trained * (moments + master),
        "adapter": 0 if full else trained * size,
    }


def limit(device: str = "cpu") -> int:
    """Bytes of memory that this machine, or its accelerator, can give, or may use."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text(encoding="utf-8").strip() if Path(path).exists() else ""
        found = min(found, int(text)) if text.isdecimal() else found
    return found


def micro_batch_tokens(recipe: Recipe, config: Any, size: int, device: str, most: int | None = None) -> int:
    """Most tokens of a micro-batch if the recipe says none: on a CPU `FEW`, else what fills a part of what is left.

    most  bytes of the device, where it is not the one that is here
    """
    if device == "cpu":
        return FEW
    left = (limit(device) if most is None else most) - sum(parts(recipe, config, size).values())
    room = int(SHARE * left / (OF_TOKEN * layer_count(config) * hidden_width(config)))
    return min(max(room // FEW * FEW, FEW), MANY)


def refuse(recipe: Recipe, config: Any, size: int, device: str) -> None:
    """An OutOfMemory where the weights, and the optimiser's state where all are trained, are more than there is."""
    found, most = parts(recipe, config, size), limit(device)
    # How many weights an adapter has, and which are frozen, only the model says; gradients by rows may be few.
    whole = recipe.adapter is None and not recipe.optim.freeze
    least = found["weights"] + found["reference"] + (found["optimiser"] if whole else 0)
    if least > most:
        raise OutOfMemory(
            f"{'weights and optimiser' if whole else 'weights'} alone take {least / 1e9:.1f} GB, and there are "
            f"{most / 1e9:.1f} GB here",
            where=recipe.name,
            fix=f"{_smaller(recipe)}take a smaller model; what would fit: bottega plan",
        )


def _smaller(recipe: Recipe) -> str:
    if recipe.adapter is None:
        return "train an adapter (adapter.rank=16), or "
    return "keep the base in 4 bits (model.quantize=nf4), or " if recipe.model.quantize == "none" else ""
