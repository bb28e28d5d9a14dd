"""Encoder–decoders prepared for packing: marked cross attention, and relative biases as a table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from bottega.models.attention import ATTENTION_NAME, CROSS_ATTENTION_FLAG
from bottega.models.encoder_decoder import prepare_encoder_decoder
from making import tiny_config


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    made = AutoModelForSeq2SeqLM.from_config(tiny_config("t5")).eval()
    prepare_encoder_decoder(made)
    return made


def test_cross_attention_is_marked_and_self_attention_is_not(model: Any) -> None:
    marked = {name for name, module in model.named_modules() if getattr(module, CROSS_ATTENTION_FLAG, False)}
    assert marked == {f"decoder.block.{layer}.layer.1.EncDecAttention" for layer in range(2)}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@torch.no_grad()
def test_the_table_holds_the_bias_of_every_distance(part: str, model: Any) -> None:
    attention = getattr(model, part).block[0].layer[0].SelfAttention
    matrix = type(attention).compute_bias(attention, 30, 30)[0]  # [h, T, S]
    attention.config._attn_implementation = ATTENTION_NAME
    table = attention.compute_bias(30, 30)  # [2D + 1, h]
    most = attention.relative_attention_max_distance
    assert table.shape == (2 * most + 1, attention.n_heads)
    place = torch.arange(30)
    distance = (place[None] - place[:, None]).clamp(-most, most) + most
    torch.testing.assert_close(table[distance].permute(2, 0, 1), matrix, rtol=0, atol=0)


@torch.no_grad()
def test_cross_attention_has_no_bias_and_no_large_matrix(model: Any) -> None:
    attention = model.decoder.block[0].layer[1].EncDecAttention
    attention.config._attn_implementation = ATTENTION_NAME
    bias = attention.compute_bias(500, 600)
    assert bias.shape == (1, attention.n_heads, 1, 1)
    assert not bias.any()
    attention.config._attn_implementation = "eager"
    assert attention.compute_bias(5, 6).shape == (1, attention.n_heads, 5, 6)


@torch.no_grad()
def test_preparing_changes_nothing_under_another_attention(model: Any) -> None:
    torch.manual_seed(0)
    plain = AutoModelForSeq2SeqLM.from_config(tiny_config("t5")).eval()
    ids = {"input_ids": torch.arange(5, 20)[None], "decoder_input_ids": torch.arange(30, 38)[None]}
    torch.testing.assert_close(model(**ids).logits, plain(**ids).logits)
