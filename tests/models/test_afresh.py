"""A row is scored as if it were the first: nothing that a model remembers of other rows reaches it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM, NllbMoeForConditionalGeneration, PerceiverForMaskedLM

from bottega.batch import Batch, Example, Row
from bottega.models.afresh import Afresh
from bottega.models.load import body
from bottega.models.scorer import Fit, Scorer
from bottega.models.small import sharpened
from bottega.packing import pack

LOGP = frozenset({"logp"})


def batch(*lengths: int, both_ways: bool = False, sourced: bool = False) -> Batch:
    """Rows of tokens below 90, each scored at all its places but the last."""
    drawn = [np.random.default_rng(length).integers(4, 90, length) for length in lengths]
    rows = [
        Row(ids, np.arange(len(ids) - 1), ids[1:], np.ones(len(ids) - 1, np.float32), both_ways=both_ways)
        if not sourced
        else Row(ids, np.arange(len(ids) - 1), ids[1:], np.ones(len(ids) - 1, np.float32), source=ids[::-1].copy())
        for ids in drawn
    ]
    return pack([Example(str(number), (row,)) for number, row in enumerate(rows)], share=False)


def scorer(model: Any, head: Any = "language", *, own_head: bool = False) -> Scorer:
    torch.manual_seed(0)
    return Scorer(sharpened(model), head, Fit(packed=False, own_head=own_head))


@torch.no_grad()
def test_a_rotation_that_grows_with_the_text_forgets_the_longest() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 16}
    found = scorer(LlamaForCausalLM(AutoConfig.for_model("llama", **shape, **heads, rope_parameters=rope)))
    alone = found(batch(24), LOGP)["logp"]
    together = found(batch(60, 24), LOGP)["logp"][59:]
    assert torch.equal(found(batch(24), LOGP)["logp"], alone)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_training_has_the_capacity_of_the_config_after_an_evaluation() -> None:
    shape = {"vocab_size": 96, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_experts": 2}
    more = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    chances = {"dropout": 0.0, "attention_dropout": 0.0, "moe_token_dropout": 0.0}
    sparse = {"encoder_sparse_step": 1, "decoder_sparse_step": 1, "expert_capacity": 3}
    config = AutoConfig.for_model("nllb-moe", **shape, **more, **chances, **sparse, max_position_embeddings=64)
    found = scorer(NllbMoeForConditionalGeneration(config), own_head=True)
    rows = batch(20, sourced=True)
    before = found.train()(rows, LOGP)["logp"]
    evaluated = found.eval()(rows, LOGP)["logp"]
    assert not torch.allclose(evaluated, before)
    assert torch.equal(found.train()(rows, LOGP)["logp"], before)


@torch.no_grad()
def test_a_model_that_answers_for_places_without_tokens() -> None:
    shape = {"num_latents": 4, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 1}
    more = {"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 16, "v_channels": 16}
    config = AutoConfig.for_model("perceiver", vocab_size=96, max_position_embeddings=32, **shape, **more)
    found = scorer(PerceiverForMaskedLM(config), "masked", own_head=True)
    together = found.eval()(batch(9, 14, both_ways=True), LOGP)["logp"]
    plain = []
    for size in (9, 14):
        ids = batch(size, both_ways=True).tokens
        logp = found.network(ids[None]).logits[0].log_softmax(1)
        plain.append(logp[: size - 1].gather(1, ids[1:, None]).squeeze(1))
    torch.testing.assert_close(together, torch.cat(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_what_a_model_learns_is_not_what_it_remembers(kind: str) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = body(AutoConfig.for_model(kind, vocab_size=96, **shape))
    weights = {id(weight) for weight in model.parameters()}
    assert not weights & {id(value) for _, _, value in Afresh(model).held}
