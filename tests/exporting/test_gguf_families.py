"""Every family computes in llama.cpp what it computes in transformers; what cannot is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import bottega
from bottega.exporting._gguf_families import FAMILIES, _interleave, _llama3_factors
from making import make_model, tiny_config

pytest.importorskip("gguf")

LOCAL = ["sliding_attention"] * 5 + ["full_attention"]
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0},
    "yarn": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        **{"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 64,
    },
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    **{
        f"llama-{kind}": ("llama", {"rope_parameters": {"rope_theta": 10_000.0, **rope}})
        for kind, rope in ROPES.items()
    },
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mixtral": ("mixtral", {}),
    "phi3": ("phi3", {}),
    "gpt2": ("gpt2", {}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "gemma3": (
        "gemma3_text",
        {"num_hidden_layers": 6, "layer_types": LOCAL, "sliding_window": 16, "query_pre_attn_scalar": 24},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    kind, more = MODELS[name]
    model = make_model(tmp_path / "model", kind, **more)
    result = bottega.export(model, tmp_path / "out", format="gguf")
    assert result.proof is not None
    assert result.proof.difference <= FAMILIES[kind].rounding
    assert result.proof.greedy == result.proof.generated >= 48


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "kind dynamic"),
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("mistral", {"sliding_window": 16}, "its attention sees 16 tokens"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "others than every fourth"),
        ("gemma3_text", {}, "others than every sixth"),
        ("gpt2", {"activation_function": "relu"}, "its activation is relu"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(kind: str, more: dict[str, Any], reason: str) -> None:
    family = FAMILIES[kind]()
    assert reason in family.refusal(tiny_config(kind, **more))


def test_halves_of_a_head_are_interleaved() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]  # two heads of four
    assert _interleave(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_factors_of_llama_3_are_those_of_transformers() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 9}
    config = LlamaConfig(**sizes, intermediate_size=8, rope_parameters=ROPES["llama3"])
    scaled = LlamaForCausalLM(config).model.rotary_emb.inv_freq
    plain = 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(_llama3_factors(config), (plain / scaled).numpy(), rtol=1e-5)
