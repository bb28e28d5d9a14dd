"""Changes of a recipe that reduce its memory, from those that cost least to those that change what is learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bottega.models import heads
from bottega.recipe.files import apply_override
from bottega.recipe.schema import Recipe
from bottega.training.dataset import Dataset

# Rank of the adapter that is proposed instead of training every weight; the default of `bottega finetune`.
ADAPTER_RANK = 16


def memory_saving_changes(recipe: Recipe, dataset: Dataset, tokens: int) -> Iterator[str]:
    """Overrides, separated by spaces, as `bottega train` takes them; the mildest first.

    tokens  the smaller micro-batch to try
    """
    # The update stays the same: smaller micro-batches, and activations computed twice.
    smallest = f"optim.tokens={tokens} optim.checkpointing=true"
    yield from (f"optim.tokens={tokens}", "optim.checkpointing=true", smallest)
    # Fewer weights are trained.
    has_head = not heads.load(recipe.objective.head).is_bare
    if recipe.model.base is not None and has_head and recipe.adapter is None:
        smallest = f"adapter.rank={ADAPTER_RANK} {smallest}"
        yield from (f"adapter.rank={ADAPTER_RANK}", smallest)
    # The frozen weights are rounded. Only a frozen base can be quantized.
    frozen_base = recipe.adapter is not None or "adapter" in smallest
    quantized = [f"model.quantize=nf4 {smallest}"] if frozen_base and recipe.model.quantize == "none" else []
    yield from quantized
    # Less of the rows is read.
    longest = max(len(row.tokens) for example in dataset.train.examples for row in example.rows)
    truncate = "" if recipe.too_long == "split" else " data.too_long=truncate"
    yield from (f"{change} data.max_length={longest // 2}{truncate}" for change in (smallest, *quantized))


def apply_changes(recipe: Recipe, change: str) -> Recipe:
    """The recipe with overrides, separated by spaces, applied."""
    # JSON turns tuples into lists and copies, so that the recipe's own document stays as it is.
    document = json.loads(json.dumps(recipe.document()))
    for override in change.split():
        apply_override(document, override, Path())
    return Recipe.parse(document)
