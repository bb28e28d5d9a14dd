"""Texts of models whose layers have one shape, and several."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.models.attention.cached_text import CachedText, CacheForm, concatenate
from bottega.models.scorer_setup import fit_model
from making import tiny_config

# (heads, width) of the key and of the value of each layer.
ONE_SHAPE = [((2, 4), (2, 4))] * 3
SEVERAL = [((2, 4), (2, 6)), ((1, 6), (2, 4)), ((2, 4), (2, 6))]


def layers_of(shapes: list[tuple[tuple[int, int], tuple[int, int]]], tokens: int) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(torch.randn(heads, tokens, width) for heads, width in layer) for layer in shapes]


def text_of(form: CacheForm, layers: list[tuple[torch.Tensor, ...]]) -> CachedText:
    text = form.new_text(layers[0][0].shape[1])
    for index, parts in enumerate(layers):
        for memory, part in zip(text.layer(index), parts, strict=True):
            memory.copy_(part)
    return text


@pytest.mark.parametrize(("shapes", "tensors"), [(ONE_SHAPE, 1), (SEVERAL, 3)])
def test_layers_are_found_where_they_were_put(shapes: list, tensors: int) -> None:
    layers = layers_of(shapes, 5)
    form = CacheForm.of(layers)
    assert len(form.shapes) == tensors
    text = text_of(form, layers)
    whole = concatenate([text.part(0, 2), text.part(2, 5).copy()], 0, 5)
    assert len(whole) == 5
    few = concatenate([text.part(0, 1), text.part(1, 3), text.part(3, 5)], 2, 4)
    assert torch.equal(few.layer(1)[1], layers[1][1][:, 2:4])
    for index, parts in enumerate(layers):
        for one in (text, whole):
            assert all(torch.equal(found, part) for found, part in zip(one.layer(index), parts, strict=True))


def test_a_copy_has_its_own_memory() -> None:
    text = text_of(form := CacheForm.of(layers := layers_of(ONE_SHAPE, 4)), layers)
    copied, part = text.part(1, 3).copy(), text.part(1, 3)
    text.tensors[0].zero_()
    assert not part.tensors[0].any()
    assert torch.equal(copied.layer(2)[1], layers[2][1][:, 1:3])
    assert all(tensor.is_contiguous() for tensor in copied.tensors)
    assert form.dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_the_form_of_a_network(kind: str) -> None:
    network = fit_model(AutoModelForCausalLM.from_config(tiny_config(kind)).eval(), "language").network
    form, config = CacheForm.of_network(network), network.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert form.shapes == ((2 * config.num_hidden_layers, heads, width),)
    assert form.dtype == network.dtype
