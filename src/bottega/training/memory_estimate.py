"""The memory a run needs at least, counted from its recipe and config before any weight is loaded.

Activations are not counted: `planning` measures or extrapolates them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bottega.adapters import LinearLayer
from bottega.errors import OutOfMemory
from bottega.models import heads
from bottega.models.checkpoint import body
from bottega.models.dimensions import hidden_width, layer_count, vocabulary_size
from bottega.models.quantization.linear import BYTES_PER_WEIGHT
from bottega.recipe.schema import Recipe

# Smallest and largest micro-batch, in tokens, where the recipe does not set one. On a CPU 2,048 were 7 % faster than
# 4,096, whose activations leave its cache. An H200 waited for its CPU with 4,096, and did 2.6 and 3.3 times as much
# with 16,384 and 40,960.
MIN_MICRO_BATCH, MAX_MICRO_BATCH = 2048, 32768

# The fraction of the memory left by weights and optimizer that activations may take.
ACTIVATION_FRACTION = 0.6

# Bytes of activations per token, layer and unit of the hidden width: on an H200 32 at 1 B and 31 at 7 B, with LoRA.
ACTIVATION_BYTES = 40

# Bytes of an optimizer's state for each weight: two float32 moments with AdamW, one with Muon; in 8 bits two codes, and
# two scales for 256 weights. Adafactor's rows and columns are not worth counting.
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "adafactor": 0.0, "muon": 4.0}

# cgroup limits, of version 2 and 1: a container has less than the machine.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class WeightCounts(NamedTuple):
    """Numbers of weights: all, those of linear layers in the body, and those that are trained."""

    total: int
    linear: int
    trained: int


def count_weights(recipe: Recipe, config: Any) -> WeightCounts:
    """The numbers of weights of a recipe's model; allocates none."""
    total, layers = _body_sizes(config)
    # The body has the input embeddings; a head over the vocabulary that is not tied to them comes on top.
    over_vocabulary = heads.load(recipe.objective.head).over_vocabulary
    if over_vocabulary and not getattr(config, "tie_word_embeddings", True):
        total += vocabulary_size(config) * hidden_width(config)
    linear = sum(layer.inputs * layer.outputs for layer in layers)
    return WeightCounts(total, linear, total if recipe.adapter is None else recipe.adapter.count(layers))


# Config as JSON → what `_body_sizes` returns: building a model takes seconds even on the meta device.
_body_sizes_by_config: dict[str, tuple[int, list[LinearLayer]]] = {}


def _body_sizes(config: Any) -> tuple[int, list[LinearLayer]]:
    """(number of weights, linear layers) of a model without its head."""
    key = config.to_json_string(use_diff=False)
    if key not in _body_sizes_by_config:
        with torch.device("meta"):
            model = body(config)
        modules = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        layers = [LinearLayer(name, layer.in_features, layer.out_features) for name, layer in modules]
        _body_sizes_by_config[key] = sum(weight.numel() for weight in model.parameters()), layers
    return _body_sizes_by_config[key]


def memory_parts(recipe: Recipe, config: Any, size: int) -> dict[str, int]:
    """Bytes of what stays in memory through an update, by part; `size`: bytes of one weight.

    The names of the parts are keys of `bottega plan --json`.
    """
    total, linear, trained = count_weights(recipe, config)
    quantized_size = BYTES_PER_WEIGHT[recipe.model.quantize]
    weights = round(total * size - (0 if quantized_size is None else linear * (size - quantized_size)))
    full = recipe.adapter is None
    moments = STATE_BYTES[recipe.optim.optimizer]
    # A large bfloat16 weight keeps the lower half of its master beside it, a small one a float32 copy.
    master = 0 if size == 4 else 2 if full else 4
    # With an adapter the reference is the model with the adapter disabled.
    copies = 1 if full and (recipe.objective.compares_with_reference or recipe.uses_anchor) else 0
    return {
        "weights": weights,
        "reference": copies * weights,
        "gradients": trained * (size if full else 4),
        "optimiser": round(trained * (moments + master)),
        "adapter": 0 if full else trained * size,
    }


def memory_limit(device: str = "cpu") -> int:
    """Bytes of memory that this process may use, of the machine or of its GPU."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, CGROUP_LIMITS):
        text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        limit = min(limit, int(text)) if text.isdecimal() else limit  # "max" if unlimited
    return limit


def micro_batch_tokens(recipe: Recipe, config: Any, size: int, device: str, limit: int | None = None) -> int:
    """The size of a micro-batch, in tokens, if the recipe sets none.

    On a CPU the smallest; on a GPU what fills a fraction of the memory that weights and optimizer leave.

    limit  bytes of memory of the device; default: of the one in this machine
    """
    if device == "cpu":
        return MIN_MICRO_BATCH
    left = (memory_limit(device) if limit is None else limit) - sum(memory_parts(recipe, config, size).values())
    tokens = int(ACTIVATION_FRACTION * left / (ACTIVATION_BYTES * layer_count(config) * hidden_width(config)))
    return min(max(tokens // MIN_MICRO_BATCH * MIN_MICRO_BATCH, MIN_MICRO_BATCH), MAX_MICRO_BATCH)


def check_fits(recipe: Recipe, config: Any, size: int, device: str) -> None:
    """Raise OutOfMemory if the weights, and the optimizer state where all are trained, exceed the memory."""
    parts, limit = memory_parts(recipe, config, size), memory_limit(device)
    # Counted only where it is certain: how many weights an adapter has, and which are frozen, only the model says.
    # Gradients are left out, as those of embeddings may be few rows.
    all_trained = recipe.adapter is None and not recipe.optim.freeze
    needed = parts["weights"] + parts["reference"] + (parts["optimiser"] if all_trained else 0)
    if needed > limit:
        raise OutOfMemory(
            f"{'weights and optimizer' if all_trained else 'weights'} alone take {needed / 1e9:.1f} GB, and there are "
            f"{limit / 1e9:.1f} GB",
            where=recipe.name,
            fix=f"{_memory_saving_fix(recipe)}take a smaller model; what would fit: bottega plan",
        )


def _memory_saving_fix(recipe: Recipe) -> str:
    if recipe.adapter is None:
        return "train an adapter (adapter.rank=16), or "
    return "keep the base in 4 bits (model.quantize=nf4), or " if recipe.model.quantize == "none" else ""
