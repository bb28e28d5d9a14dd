"""A row is scored as if it were the first: nothing that a model remembers of other rows reaches it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaForCausalLM,
    NllbMoeForConditionalGeneration,
    PerceiverForMaskedLM,
)

from bottega.batch import Batch, Example, Row
from bottega.inference.generator import Writer
from bottega.models.checkpoint import body
from bottega.models.packing_proof import prove_packing
from bottega.models.row_state import RowState
from bottega.models.scorer import Fit, Scorer
from bottega.models.small_copy import sharpen_weights
from bottega.packing import pack
from bottega.sampling import Sampling
from making import make_tokenizer

LOGP = frozenset({"logp"})


def batch(*lengths: int, both_ways: bool = False, sourced: bool = False) -> Batch:
    """Rows of tokens below 90, each scored at all positions but the last."""
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
    return Scorer(sharpen_weights(model), head, Fit(packed=False, own_head=own_head))


def growing() -> Any:
    """A model whose rotation grows with texts beyond 16 tokens."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 16}
    return LlamaForCausalLM(AutoConfig.for_model("llama", **shape, **heads, rope_parameters=rope))


@torch.no_grad()
def test_a_rotation_that_depends_on_length_is_reset() -> None:
    found = scorer(growing())
    alone = found(batch(24), LOGP)["logp"]
    together = found(batch(60, 24), LOGP)["logp"][59:]
    assert torch.equal(found(batch(24), LOGP)["logp"], alone)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_each_head_is_tried_on_a_reset_model() -> None:
    model = growing()
    fit = prove_packing(type(model), model.config, "language", False)
    assert (fit.packed, fit.own_head) == (False, False)


def crowded() -> Any:
    """A model whose experts keep the capacity of the last text in evaluation mode."""
    shape = {"vocab_size": 96, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_experts": 2}
    more = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    chances = {"dropout": 0.0, "attention_dropout": 0.0, "moe_token_dropout": 0.0}
    sparse = {"encoder_sparse_step": 1, "decoder_sparse_step": 1, "expert_capacity": 3}
    config = AutoConfig.for_model("nllb-moe", **shape, **more, **chances, **sparse, max_position_embeddings=64)
    return NllbMoeForConditionalGeneration(config)


def test_evaluation_does_not_change_expert_capacity_in_training() -> None:
    found = scorer(crowded(), own_head=True)
    rows = batch(20, sourced=True)
    before = found.train()(rows, LOGP)["logp"]
    evaluated = found.eval()(rows, LOGP)["logp"]
    assert not torch.allclose(evaluated, before)
    assert torch.equal(found.train()(rows, LOGP)["logp"], before)


@torch.no_grad()
def test_a_model_that_returns_scores_for_padding() -> None:
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


# Writing


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def written(found: Scorer, tokenizer: Any, *lengths: int) -> list[list[int]]:
    """The tokens that a scorer's model generates after prompts of these lengths."""
    writer = Writer(found.network, tokenizer, frozenset(), packed=False, reset_row_state=found.reset_row_state)
    prompts = [batch(length).tokens.tolist() for length in lengths]
    return [one.tokens for (one,) in writer.write(prompts, Sampling(tokens=24))]


def test_a_longer_prompt_does_not_change_the_next_answer(tokenizer: Any) -> None:
    found = scorer(growing())
    alone = written(found, tokenizer, 20)
    assert written(found, tokenizer, 60, 20)[1:] == alone
    ids = batch(20).tokens[None]
    for _ in range(24):  # each time by a model that has read nothing before
        fresh = scorer(growing()).network.eval()
        ids = torch.cat([ids, fresh(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert alone == [ids[0, 20:].tolist()]


@torch.no_grad()
def test_generation_does_not_change_later_scores(tokenizer: Any) -> None:
    found = scorer(growing())
    written(found, tokenizer, 60)
    assert torch.equal(found(batch(24), LOGP)["logp"], scorer(growing())(batch(24), LOGP)["logp"])


def test_generation_does_not_change_expert_capacity_in_training(tokenizer: Any) -> None:
    found, rows = scorer(crowded(), own_head=True), batch(20, sourced=True)
    written(found, tokenizer, 30)
    expected = scorer(crowded(), own_head=True).train()(rows, LOGP)["logp"]
    assert torch.equal(found.train()(rows, LOGP)["logp"], expected)


# What is kept


def test_a_boolean_attribute_is_a_setting_and_is_not_reset() -> None:
    module: Any = nn.Linear(2, 2)
    state = RowState(module)
    module.gradient_checkpointing, module.longest = True, 7
    state.restore()
    assert module.gradient_checkpointing is True
    assert not hasattr(module, "longest")


def test_a_tensor_beside_the_weights_is_kept() -> None:
    module: Any = nn.Linear(2, 2)
    module.longest = first = torch.tensor(7)
    state = RowState(module)
    module.longest = torch.tensor(9)
    state.restore()
    assert module.longest is first


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_trained_weights_are_not_row_state(kind: str) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = body(AutoConfig.for_model(kind, vocab_size=96, **shape))
    weights = {id(weight) for weight in model.parameters()}
    assert not weights & {id(value) for _, _, value in RowState(model).items}
