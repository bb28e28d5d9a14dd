"""The probe tells what can be packed from what cannot, for fresh configs at their published sizes."""

from __future__ import annotations

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from bottega.models.probe import probe, shrunken
from bottega.models.scorer import Fit

PACKED = (
    "llama qwen2 qwen3 gemma2 gemma3_text mistral phi3 gpt2 gpt_neox mixtral qwen3_moe olmo2 granite cohere opt gpt_oss"
)


@pytest.mark.parametrize("kind", PACKED.split())
def test_packed(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    fit = probe(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert fit == Fit(fused=fit.fused)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "gpt_neo", "recurrent_gemma", "qwen3_next"])
def test_not_packed(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    fit = probe(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert not fit.packed
    assert "differ" in fit.reason


def test_a_window_wider_than_the_rows_does_not_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose window our attention ignored would pass on short rows; the probe shrinks the window."""
    from bottega.models.attention import blocks

    whole = blocks.visible
    monkeypatch.setattr(blocks, "visible", lambda batch, query, key, window: whole(batch, query, key, None))
    config = AutoConfig.for_model("mistral", sliding_window=4096)
    assert not probe(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False).packed


def test_a_layer_of_each_kind_is_asked() -> None:
    """SmolLM3 leaves every fourth layer without rotary positions; its config lists which."""
    config = AutoConfig.for_model("smollm3")
    model = shrunken(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    assert [bool(layer.self_attn.use_rope) for layer in model.model.layers] == [True, True, False, False]
    fit = probe(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert fit.packed
    assert fit.fused == ("SmolLM3Attention", "SmolLM3MLP", "SmolLM3RMSNorm")


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_encoders(kind: str) -> None:
    config = AutoConfig.for_model(kind, num_labels=5)
    fit = probe(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], config, "class", True)
    assert fit.packed == (kind != "distilbert"), "DistilBERT takes no positions"
