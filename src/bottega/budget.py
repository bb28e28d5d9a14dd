"""What a run cannot do without, counted from its recipe before any weight is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from bottega.errors import OutOfMemory
from bottega.recipe import Recipe


def counts(recipe: Recipe, config: Any) -> tuple[int, int]:
    """(weights of the model, weights that are trained), counted without making any."""
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    total = sum(weight.numel() for weight in model.parameters())
    if not getattr(config, "tie_word_embeddings", True) and recipe.objective.head == "language":
        total += config.get_text_config().vocab_size * config.get_text_config().hidden_size
    if recipe.adapter is None:
        return total, total
    rank = recipe.adapter.rank
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return total, sum(rank * (one.in_features + one.out_features) for one in linear)


def parts(recipe: Recipe, config: Any, size: int) -> dict[str, int]:
    """Bytes of what stays through an update, at `size` bytes a weight; activations come on top."""
    total, trained = counts(recipe, config)
    full = recipe.adapter is None
    moments = 4 if recipe.optim.optimizer == "muon" else 8
    # A large bfloat16 weight keeps the lower half of its master beside it, a small one a float32 copy.
    master = 0 if size == 4 else 2 if full else 4
    copies = 1 if full and (recipe.objective.reference or recipe.anchored) else 0
    return {
        "weights": total * size,
        "reference": copies * total * size,
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


def refuse(recipe: Recipe, config: Any, size: int, device: str) -> None:
    """An OutOfMemory where the weights and the optimiser's state alone are more than there is."""
    if recipe.optim.freeze:  # what is frozen has no state, and how much that is only the model says
        return
    found, most = parts(recipe, config, size), limit(device)
    # Gradients by rows may be few.
    least = sum(size for name, size in found.items() if name != "gradients")
    if least > most:
        raise OutOfMemory(
            f"weights and optimiser alone take {least / 1e9:.1f} GB, and there are {most / 1e9:.1f} GB here",
            where=recipe.name,
            fix="train an adapter (adapter.rank=16), or take a smaller model; what would fit: bottega plan",
        )
