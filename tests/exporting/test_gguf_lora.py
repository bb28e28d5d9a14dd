"""LoRA adapters as GGUF files: what is added to the weights of llama.cpp is what the adapter adds to the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bottega
from bottega.inference.runtimes import is_installed
from making import make_model

gguf = pytest.importorskip("gguf")

SHAPES = {
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "phi3": {"sliding_window": None, "original_max_position_embeddings": 64},
}
TARGETS = {"gpt2": ("c_attn", "c_fc"), "phi3": ("qkv_proj", "down_proj")}


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_updates_are_those_of_the_merged_weights(
    kind: str, two_adapters: Callable[..., list[Path]], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", kind, **SHAPES[kind])
    runs = two_adapters(base, TARGETS.get(kind, ("q_proj", "down_proj")))
    bottega.export(base, tmp_path / "out", format="gguf", adapters=runs)
    weights = tensors(tmp_path / "out" / "model.gguf")
    for run in runs:
        bottega.export(run, tmp_path / f"{run.name}-merged", format="gguf")
        merged = tensors(tmp_path / f"{run.name}-merged" / "model.gguf")
        update = tensors(tmp_path / "out" / "adapters" / run.name / "adapter.gguf")
        changed = {name for name in weights if not np.array_equal(weights[name], merged[name])}
        assert {name.rpartition(".lora_")[0] for name in update} == changed
        for name in changed:
            added = update[f"{name}.lora_b"] @ update[f"{name}.lora_a"]
            np.testing.assert_allclose(merged[name] - weights[name], added, rtol=0, atol=1e-6)


@pytest.mark.skipif(not is_installed("llama_cpp"), reason="llama.cpp is not installed: make engines")
@pytest.mark.parametrize("kind", SHAPES)
def test_llama_cpp_computes_them(kind: str, two_adapters: Callable[..., list[Path]], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", kind, **SHAPES[kind])
    runs = two_adapters(base, TARGETS.get(kind, ("q_proj", "down_proj")))
    result = bottega.export(base, tmp_path / "out", format="gguf", adapters=runs)
    for comparison in result.adapters.values():
        assert comparison.proof is not None
        assert comparison.proof.greedy == comparison.proof.generated > 0
