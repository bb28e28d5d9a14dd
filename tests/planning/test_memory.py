"""Peak memory by part."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from bottega.hardware.datasheets import DEVICES
from bottega.planning.memory import (
    ACTIVATIONS,
    LOGIT_BYTES,
    PROCESS,
    activation_bytes,
    memory_by_part,
    micro_batch_tokens,
    process_bytes,
)
from bottega.training import memory_estimate
from bottega.training.dataset import build_dataset
from making import make_model, make_recipe


def test_memory_by_part(tmp_path: Path) -> None:
    peak = 1_600_000_000
    full = make_recipe(tmp_path)
    rows = build_dataset(full)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    weights = sum(weight.numel() for weight in model.parameters())
    parts = memory_by_part(full, rows, peak)
    assert parts["weights"] == parts["gradients"] == 4 * weights
    assert parts["optimiser"] == 8 * weights
    assert parts["reference"] == parts["adapter"] == 0
    half = full.model_copy(update={"model": full.model.model_copy(update={"dtype": "bfloat16"})})
    parts = memory_by_part(half, rows, peak)
    assert (parts["weights"], parts["optimiser"]) == (2 * weights, 10 * weights)
    aligned = make_recipe(tmp_path / "dpo", objective={"kind": "dpo"})
    assert memory_by_part(aligned, rows, peak)["reference"] == 4 * weights
    lora = memory_by_part(make_recipe(tmp_path / "lora", adapter={"rank": 4}), rows, peak)
    assert 0 < lora["optimiser"] < parts["optimiser"] / 4


def test_parts_add_up_to_the_peak(tmp_path: Path) -> None:
    given = make_recipe(tmp_path, devices={"device": "cpu"})
    rows, peak = build_dataset(given), 3_000_000_000
    parts = memory_by_part(given, rows, peak)
    assert sum(parts.values()) == peak
    assert parts[PROCESS] == pytest.approx(process_bytes(), rel=0.1)
    assert parts[PROCESS] > 1e8, "torch is imported"
    assert memory_by_part(given, rows, 0)[ACTIVATIONS] == 0


def test_activations_by_the_shapes_of_a_model(tmp_path: Path) -> None:
    """Per token: width × layers × 40 bytes in bfloat16, one layer more for the one that is computed, and the logits."""
    optim = {"epochs": 1}
    model = {"base": str(make_model(tmp_path / "base")), "dtype": "bfloat16"}
    given = make_recipe(tmp_path, model=model, optim=optim)
    rows = build_dataset(given)
    logits = LOGIT_BYTES * 300
    assert activation_bytes(given, rows, 100) == 100 * 32 * 40 * 3 + logits
    wide = make_recipe(tmp_path, model=model | {"dtype": "float32"}, optim=optim)
    assert activation_bytes(wide, rows, 100) == 100 * 32 * 80 * 3 + logits
    for name, kept in (("checkpointing", 2), ("offload", 0)):
        saving = make_recipe(tmp_path, model=model, optim=optim | {name: True})
        assert activation_bytes(saving, rows, 100) == 100 * 32 * (2 * kept + 40) + logits


def test_micro_batches_are_those_of_the_recipe_or_of_the_device(tmp_path: Path) -> None:
    given = make_recipe(tmp_path, optim={"epochs": 1, "tokens": 77})
    rows = build_dataset(given)
    assert micro_batch_tokens(given, rows, DEVICES["h200"]) == 77
    free = make_recipe(tmp_path, devices={"device": "cpu"})
    assert micro_batch_tokens(free, rows, None) == memory_estimate.MIN_MICRO_BATCH
    assert micro_batch_tokens(free, rows, DEVICES["h200"]) == memory_estimate.MAX_MICRO_BATCH
