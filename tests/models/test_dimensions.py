"""How wide and deep a model is, where configs say it each in its own way; plans of models that say it of no whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import bottega
from bottega.errors import ModelError
from bottega.models.dimensions import attention_window, head_width, hidden_width, layer_count, vocabulary_size
from bottega.recipe.schema import Recipe
from making import make_tokenizer, tiny_config, write_jsonl

BLT_PART = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
BLT_PART |= {"vocab_size": 300, "num_hidden_layers": 2, "max_position_embeddings": 64}

CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "funnel": (
        transformers.FunnelForMaskedLM,
        {"block_sizes": [1, 1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48},
    ),
    "prophetnet": (
        transformers.ProphetNetForConditionalGeneration,
        {
            **{"hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2, "encoder_ffn_dim": 48},
            **{"decoder_ffn_dim": 48, "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2},
        },
    ),
    "perceiver": (
        transformers.PerceiverForMaskedLM,
        {
            **{"num_latents": 16, "d_latents": 32, "d_model": 24, "num_blocks": 1, "num_self_attends_per_block": 3},
            **{"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 16, "v_channels": 32},
            "max_position_embeddings": 64,
        },
    ),
    "blt": (
        transformers.BltForCausalLM,
        {
            **{"encoder_hash_byte_group_vocab": 500, "encoder_hash_byte_group_size": [3, 4]},
            **{"patcher_config": BLT_PART, "global_config": {**BLT_PART, "num_hidden_layers": 3}},
            "encoder_config": {**BLT_PART, "hidden_size_global": 32},
            "decoder_config": {**BLT_PART, "hidden_size_global": 32},
        },
    ),
    "squeezebert": (
        transformers.SqueezeBertForMaskedLM,
        {
            **{"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
            **{"intermediate_size": 48, "max_position_embeddings": 64},
        },
    ),
}


def made(kind: str, folder: Path) -> Path:
    model_class, sizes = CONFIGS[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=300, pad_token_id=2, **sizes)
    model_class(config).save_pretrained(str(make_tokenizer(folder)))
    return folder


def recipe(base: Path, objective: str, *rows: dict[str, str], **more: Any) -> Recipe:
    document = {
        "model": {"base": str(base), "dtype": "float32"},
        "data": {"train": str(write_jsonl(base / "rows.jsonl", list(rows)))},
        "objective": {"kind": objective},
        "optim": {"steps": 1, "examples": 2},
    }
    return Recipe.parse(document | more)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", (32, 2, 300)),
        ("t5", (32, 2, 300)),
        ("funnel", (32, 3, 300)),
        ("prophetnet", (32, 2, 300)),
        ("perceiver", (32, 3, 300)),
        ("blt", (32, 3, 300)),
        ("canine", (48, 5, 0)),
    ],
)
def test_width_depth_and_vocabulary_of_configs(kind: str, sizes: tuple[int, int, int]) -> None:
    if kind in CONFIGS:
        config = transformers.AutoConfig.for_model(kind, vocab_size=300, **CONFIGS[kind][1])
    elif kind == "canine":
        config = transformers.CanineConfig(hidden_size=48, num_hidden_layers=5)
    else:
        config = tiny_config(kind)
    assert (hidden_width(config), layer_count(config), vocabulary_size(config)) == sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "objective"), [("funnel", "masked"), ("prophetnet", "sft"), ("perceiver", "masked"), ("blt", "sft")]
)
def test_models_without_a_single_depth_are_planned(kind: str, objective: str, tmp_path: Path) -> None:
    row = {"text": "the cat sat on the mat"} if objective == "masked" else {"prompt": "the cat", "completion": " sat"}
    given = recipe(made(kind, tmp_path / kind), objective, row, row)
    assert bottega.plan(given).measured
    assert bottega.plan(given, device="h100").memory > 0


def test_an_error_names_a_text_that_a_model_cannot_compute(tmp_path: Path) -> None:
    """Funnel halves its texts twice, and fails on very short ones."""
    given = recipe(
        made("funnel", tmp_path / "funnel"), "regress", {"text": "a", "label": "1.5"}, {"text": "b", "label": "2"}
    )
    with pytest.raises(ModelError, match=r"Funnel\w+ of transformers: it cannot compute a text of \d tokens"):
        list(bottega.train(given, tmp_path / "run"))


def test_an_adapter_that_the_loss_does_not_depend_on_is_an_error(tmp_path: Path) -> None:
    """SqueezeBERT consists of convolutions; its only linear layer comes after the hidden states that are compared."""
    base = made("squeezebert", tmp_path / "squeezebert")
    rows = [{"anchor": "the cat", "positive": "a cat"}, {"anchor": "the dog", "positive": "a dog"}]
    given = recipe(base, "contrastive", *rows, adapter={"rank": 2})
    with pytest.raises(ModelError, match="the loss does not depend on any trained weight"):
        list(bottega.train(given, tmp_path / "run"))


def test_width_of_a_head() -> None:
    assert head_width(tiny_config("llama")) == 8
    assert head_width(tiny_config("qwen3", head_dim=16)) == 16
    assert head_width(tiny_config("gpt2")) == 8


def test_the_window_that_some_layers_see() -> None:
    assert attention_window(tiny_config("llama")) is None
    assert attention_window(tiny_config("mistral")) == 5
    assert attention_window(tiny_config("gemma3_text")) == 5
    # Its config has a window that no layer uses.
    assert attention_window(transformers.Qwen2Config(sliding_window=5)) is None
