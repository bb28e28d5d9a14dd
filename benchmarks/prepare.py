"""Time to read, tokenize and pack a file of rows: `prepare.py FOLDER` prints one JSON line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bottega.hardware import memory

with memory.frozen_imports():  # as a run does it
    from bottega.packing import pack, split_into_micro_batches
    from bottega.recipe.schema import Recipe
    from bottega.training.dataset import build_dataset
    from bottega.training.memory_estimate import MIN_MICRO_BATCH

# Examples that are packed together.
EXAMPLES = 64


def main() -> None:
    folder = Path(sys.argv[1])
    document = {
        "model": {"base": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl")},
        "objective": {"kind": "sft"},
    }
    recipe = Recipe.parse(document)
    started = time.perf_counter()
    examples = build_dataset(recipe).train.examples
    for start in range(0, len(examples), EXAMPLES):
        for group in split_into_micro_batches(examples[start : start + EXAMPLES], MIN_MICRO_BATCH):
            pack(group)
    print(json.dumps({"seconds": [time.perf_counter() - started], "memory": memory.peak_bytes()}))


if __name__ == "__main__":
    main()
