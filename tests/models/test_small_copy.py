"""Small copies of large models: how small, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from bottega.models.packing_proof import ROW_LENGTHS, SMALL_WINDOW
from bottega.models.small_copy import SmallCopy, config_value, nested_configs, sharpen_weights, small_copies
from making import LONG_ROPE


def test_a_copy_of_a_large_model_is_small() -> None:
    """Whatever its config nests or lists by layer."""
    wide = {"hidden_size": 5120, "num_attention_heads": 40, "vocab_size": 262144, "intermediate_size": 15360}
    for kind, more in (("gemma4_text", wide), ("t5gemma", {}), ("deepseek_v3", {}), ("phi3", LONG_ROPE)):
        config = AutoConfig.for_model(kind, **more)
        mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if kind == "t5gemma" else MODEL_FOR_CAUSAL_LM_MAPPING
        model = next(small_copies(mapping[type(config)], config, SMALL_WINDOW, max(ROW_LENGTHS))).model
        assert sum(weight.numel() for weight in model.parameters()) < 500_000, kind


def test_config_values_in_tokens_are_smaller_than_the_rows() -> None:
    config = AutoConfig.for_model("gemma3_text")
    small = next(copies(config))
    assert small.model.config.sliding_window == SMALL_WINDOW
    assert set(small.model.config.layer_types) == {"sliding_attention", "full_attention"}
    assert small.unknown == ()
    assert config.sliding_window == 4096, "the config itself is not changed"


def test_widths_grow_from_copy_to_copy_and_there_is_no_dropout() -> None:
    config = AutoConfig.for_model("llama", hidden_size=256, num_attention_heads=8, attention_dropout=0.5)
    found = list(copies(config))
    widths = [one.model.config.hidden_size for one in found]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == 256
    assert {one.model.config.attention_dropout for one in found} == {0.0}
    assert not any(one.model.training for one in found)


def test_an_unknown_large_number_counts_as_a_length_at_first() -> None:
    config = AutoConfig.for_model("llama", attends_to=4096)
    first, second, *_ = copies(config)
    assert (first.model.config.attends_to, first.unknown) == (SMALL_WINDOW, ())
    assert (second.model.config.attends_to, second.unknown) == (4096, ("attends_to",))


def test_a_model_that_cannot_be_built_raises_its_own_error() -> None:
    class Broken(LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        list(small_copies(Broken, AutoConfig.for_model("llama"), SMALL_WINDOW, max(ROW_LENGTHS)))


def test_no_weight_is_left_at_zero_or_one() -> None:
    model = sharpen_weights(next(copies(AutoConfig.for_model("gpt2"))).model)
    for name, weight in model.named_parameters():
        assert weight.std() > 0.05, name


def test_configs_are_found_at_any_depth() -> None:
    config = AutoConfig.for_model("t5gemma")
    assert nested_configs(config) == [config, config.encoder, config.decoder]
    assert config_value(AutoConfig.for_model("llama"), "no_such_key") is None


def copies(config: Any) -> Iterator[SmallCopy]:
    return small_copies(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, SMALL_WINDOW, max(ROW_LENGTHS))
