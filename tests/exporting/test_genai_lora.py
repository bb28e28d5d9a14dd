"""LoRA adapters of ONNX Runtime GenAI: places in the graph, and files that fill them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

import bottega
from bottega.exporting._genai_lora import _weights, excluded_nodes
from bottega.inference.runtimes import open_runtime
from bottega.models.low_rank import LowRankUpdate
from making import make_model

pytest.importorskip("onnxruntime_genai")

CONFIG = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=96)


def test_smaller_ranks_are_filled_up_and_fused_layers_split() -> None:
    rng = np.random.default_rng(0)
    update = LowRankUpdate(
        *(rng.normal(size=size).astype(np.float32) for size in ((2, 64), (128, 2))), transposed=False
    )
    found = dict(_weights({"model.layers.0.self_attn.qkv_proj": update}, 5, CONFIG))
    parts = []
    for part, width in (("q", 64), ("k", 32), ("v", 32)):
        name = f"model.layers.0.attn.{part}_proj"
        a, b = found[f"{name}.lora_A.MatMul.weight"], found[f"{name}.lora_B.MatMul.weight"]
        assert (a.shape, b.shape) == ((64, 5), (5, width))
        parts.append(a @ b)
    np.testing.assert_allclose(np.concatenate(parts, 1), (update.b @ update.a).T, rtol=1e-5)


def test_the_nodes_that_stay_in_float32() -> None:
    assert excluded_nodes(["model.layers.11.self_attn.q_proj"], CONFIG) == [
        "/model/layers.11/attn/q_proj/lora_A/MatMul",
        "/model/layers.11/attn/q_proj/lora_B/MatMul",
    ]


@pytest.mark.slow
def test_a_base_in_4_bits(two_adapters: Callable[..., list[Path]], wide: Path, tmp_path: Path) -> None:
    """Without an adapter it computes what it does alone; with one, nearly what was trained."""
    result = bottega.export(
        wide, tmp_path / "out", format="genai", precision="int4", adapters=two_adapters(wide), rows=0
    )
    bottega.export(wide, tmp_path / "alone", format="genai", precision="int4", rows=0)
    tokens = np.arange(5, 40)
    with_places, alone = (
        open_runtime("genai", tmp_path / name, "language").logits(tokens) for name in ("out", "alone")
    )
    np.testing.assert_allclose(with_places, alone, rtol=0, atol=1e-4)
    for comparison in result.adapters.values():
        assert comparison.proof is not None
        assert comparison.proof.correlation > 0.9


@pytest.mark.slow
def test_a_family_whose_layers_are_fused(two_adapters: Callable[..., list[Path]], tmp_path: Path) -> None:
    sizes = {"sliding_window": None, "head_dim": 16}
    sizes |= dict.fromkeys(("max_position_embeddings", "original_max_position_embeddings"), 64)
    base = make_model(tmp_path / "base", "phi3", hidden_size=64, **sizes)
    runs = two_adapters(base, ("qkv_proj", "gate_up_proj"))
    result = bottega.export(base, tmp_path / "out", format="genai", adapters=runs)
    for comparison in result.adapters.values():
        assert comparison.proof is not None
        assert comparison.proof.greedy == comparison.proof.generated > 0
