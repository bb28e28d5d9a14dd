"""The probe tells what can be packed from what cannot, for fresh configs at their published sizes."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from bottega.errors import ModelError
from bottega.models.packing_proof import ROW_LENGTHS, SMALL_WINDOW, prove_packing
from bottega.models.scorer import Fit
from bottega.models.small_copy import small_copies
from making import LONG_ROPE

PACKED = (
    "llama qwen2 qwen3 gemma2 gemma3_text mistral phi3 gpt2 gpt_neox mixtral qwen3_moe olmo2 granite cohere opt gpt_oss"
)


@pytest.mark.parametrize("kind", PACKED.split())
def test_models_that_are_packed(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    fit = prove_packing(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert fit == Fit(fused=fit.fused)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "gpt_neo", "recurrent_gemma", "qwen3_next"])
def test_models_that_are_not_packed(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    fit = prove_packing(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert not fit.packed
    assert "differ" in fit.reason


def test_a_window_wider_than_the_rows_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """On short rows an ignored window would not be noticed, so the proof uses a smaller window."""
    from bottega.models.attention import blocks

    whole = blocks.visible_keys
    monkeypatch.setattr(blocks, "visible_keys", lambda batch, query, key, window: whole(batch, query, key, None))
    config = AutoConfig.for_model("mistral", sliding_window=4096)
    assert not prove_packing(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False).packed


def test_a_layer_of_each_type_is_tested() -> None:
    """SmolLM3 leaves every fourth layer without rotary positions; its config lists which."""
    config = AutoConfig.for_model("smollm3")
    model = next(small_copies(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, SMALL_WINDOW, max(ROW_LENGTHS))).model
    assert [bool(layer.self_attn.use_rope) for layer in model.model.layers] == [True, False, True, False]
    fit = prove_packing(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert fit.packed
    assert fit.fused == ("SmolLM3Attention", "SmolLM3DecoderLayer", "SmolLM3MLP", "SmolLM3RMSNorm")


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_encoders(kind: str) -> None:
    assert classifier(kind) == Fit(fused=classifier(kind).fused)


@pytest.mark.parametrize("kind", ["distilbert", "albert", "modernbert", "eurobert"])
def test_heads_of_their_own(kind: str) -> None:
    """They read the first or all states in ways that are not implemented here; the body is still packed."""
    fit = classifier(kind)
    assert fit.packed
    assert fit.own_head


@pytest.mark.parametrize("kind", ["stablelm", "nemotron"])
def test_layers_that_do_not_pass_keywords_on(kind: str) -> None:
    """The layout reaches their attention although their own code does not pass keywords on."""
    assert language(kind, num_key_value_heads=4).packed


def test_umt5_has_its_own_buckets_and_scaling() -> None:
    config = AutoConfig.for_model("umt5")
    fit = prove_packing(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)], config, "language", False)
    assert fit.packed
    assert not fit.own_head


def classifier(kind: str) -> Fit:
    config = AutoConfig.for_model(kind, num_labels=5)
    return prove_packing(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], config, "class", True)


def language(kind: str, **more: Any) -> Fit:
    config = AutoConfig.for_model(kind, **more)
    return prove_packing(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, "language", False)


SPARSE = {"layer_types": ["full_attention", "minimax_m3_sparse"] * 4, "num_hidden_layers": 8}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("doge", {}),
        ("minimax_m3_vl_text", SPARSE),
        ("llama4_text", {}),
        ("phi3", LONG_ROPE),
        ("deepseek_v32", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}),
    ],
)
def test_behaviour_that_starts_at_a_length_is_reached(kind: str, more: dict[str, Any]) -> None:
    """Masks of their own, sparse blocks, chunks, budgets, and rotations that depend on the longest row."""
    fit = language(kind, **more)
    assert not fit.packed
    assert fit.reason
    assert "no small copy" not in fit.reason


def test_an_error_names_a_length_that_cannot_be_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config key without a rule may hide how a model treats long rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    class Budgeted(LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            if config.attends_to < 1000:
                raise ValueError("too few")
            super().__init__(config)

    config = LlamaConfig()
    config.attends_to = 4096
    fit = prove_packing(Budgeted, config, "language", False)
    assert fit == Fit(packed=False, reason=fit.reason, fused=fit.fused)
    assert fit.reason == "what it does beyond attends_to could not be tried"


@pytest.mark.parametrize("kind", ["bert-generation", "cpmant", "xlnet"])
def test_a_model_that_sees_future_tokens_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match="sees the token it has to predict"):
        language(kind)


@pytest.mark.parametrize("kind", ["gemma4_text", "gemma3n_text", "inkling_text", "mamba2"])
def test_modules_that_only_resemble_a_kernel(kind: str) -> None:
    """Norms without weights, norms with a gate, layers over plain parameters."""
    assert "could be built" not in language(kind).reason
