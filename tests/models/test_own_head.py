"""A model's own head on given hidden states computes what its own forward does."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from bottega.models import heads
from bottega.models.language_head import get_language_head
from bottega.models.own_head import classifier_of, masked_lm_states, own_head_logits
from bottega.objectives import HeadKind

ENCODERS = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert")


SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("head", ["masked", "token"])
def test_a_head_computes_what_the_forward_of_the_model_does(head: HeadKind, kind: str) -> None:
    """From hidden states, at some positions in any order: equal to the model's own forward, gradients included."""
    torch.manual_seed(0)
    names = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48} if kind == "distilbert" else SMALL
    more = {"embedding_size": 16} if kind in ("electra", "albert") else {}
    config = AutoConfig.for_model(kind, **{"vocab_size": 100, "pad_token_id": 1, **names, **more})
    model = heads.load(head).auto_class(config).from_config(config).double().eval()
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    ids, at = torch.arange(2, 14)[None], torch.tensor([3, 0, 7])
    own = model(ids).logits[0, at]
    hidden = model.base_model(ids).last_hidden_state[0, at]
    found = (
        get_language_head(model).logits(masked_lm_states(model, hidden))
        if head == "masked"
        else own_head_logits(model, hidden)
    )
    torch.testing.assert_close(found, own)
    names, weights = zip(*model.named_parameters(), strict=True)
    one, other = (torch.autograd.grad(out.pow(2).sum(), weights, allow_unused=True) for out in (found, own))
    assert sum(gradient is not None for gradient in other) > 10
    for name, a, b in zip(names, one, other, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["bert", "llama"])
@torch.no_grad()
def test_a_classifier_reads_any_position(kind: str) -> None:
    """The pooled first token of BERT, and the last token of a decoder, with the model's own classifier."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL, num_labels=3, pad_token_id=1)
    model = heads.load("sequence").auto_class(config).from_config(config).eval()
    ids = torch.arange(2, 14)[None]
    hidden = model.base_model(ids).last_hidden_state[0]
    found = classifier_of(model)(hidden)
    assert found.shape == (12, 3)
    torch.testing.assert_close(found[0 if kind == "bert" else -1], model(ids).logits[0])


def test_the_original_forward_is_restored_after_an_error() -> None:
    config = AutoConfig.for_model("bert", **SMALL, pad_token_id=1)
    model = heads.load("token").auto_class(config).from_config(config)

    def fused(*_: object) -> None:
        raise AssertionError

    model.base_model.forward = fused
    with pytest.raises(RuntimeError):
        own_head_logits(model, torch.zeros(2, 7))
    assert model.base_model.forward is fused
    del model.base_model.forward
    with pytest.raises(RuntimeError):
        own_head_logits(model, torch.zeros(2, 7))
    assert "forward" not in vars(model.base_model)
