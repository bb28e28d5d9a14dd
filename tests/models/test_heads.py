"""The chunked head against plain log-softmax, values and gradients, frozen and trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bottega.models import heads
from bottega.models import language_head as chunked_head
from bottega.models.language_head import LanguageHead, get_language_head
from bottega.models.own_head import masked_lm_states, own_head_logits
from bottega.objectives import HeadKind
from making import make_model


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("scale", "softcap", "bias"), [(1.0, None, False), (0.3, None, True), (1.0, 5.0, False)])
def test_logp_is_log_softmax(
    frozen: bool, scale: float, softcap: float | None, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHUNK_BYTES", "TRAINED_CHUNK_BYTES"):
        monkeypatch.setitem(getattr(chunked_head, name), "cpu", 8 * 13 * 5)
    monkeypatch.setattr(chunked_head, "SOFTMAX_BLOCK_BYTES", 4 * 13 * 2)
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(13, 6, dtype=torch.float64, requires_grad=not frozen)
    shift = torch.randn(13, dtype=torch.float64, requires_grad=not frozen) if bias else None
    label, share = torch.randint(0, 13, (11,)), torch.randn(11, dtype=torch.float64)
    head = LanguageHead(weight, shift, scale, softcap)
    plain = head.logits(hidden).log_softmax(1).gather(1, label[:, None]).squeeze(1)
    chunked = head.logp(hidden, label)
    torch.testing.assert_close(chunked, plain)
    wanted = [tensor for tensor in (hidden, weight, shift) if tensor is not None and tensor.requires_grad]
    for one, other in zip(
        torch.autograd.grad((chunked * share).sum(), wanted),
        torch.autograd.grad((plain * share).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_guess_changes_no_gradient(right: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken ahead is what would have been; a wrong guess costs a second pass."""
    monkeypatch.setitem(chunked_head.TRAINED_CHUNK_BYTES, "cpu", 8 * 13 * 5)
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((13, 6), (13,)))
    label, share = torch.randint(0, 13, (11,)), torch.rand(11, dtype=torch.float64)
    head = LanguageHead(weight, bias, 0.7, softcap)
    gradient = -0.3 * share if right else torch.randn_like(share)
    plain = torch.autograd.grad(head.logp(hidden, label) @ gradient, (hidden, weight, bias))
    passes: list[int] = []
    whole = chunked_head._logp_with_gradients
    monkeypatch.setattr(chunked_head, "_logp_with_gradients", lambda *arguments: passes.append(1) or whole(*arguments))
    ahead = torch.autograd.grad(head.logp(hidden, label, share) @ gradient, (hidden, weight, bias))
    assert len(passes) == (1 if right else 2)
    for one, other in zip(ahead, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_smoothed_labels(frozen: bool, cap: float | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=not frozen)
    hidden = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    label, given = torch.randint(0, 50, (9,)), torch.randn(9, dtype=torch.float64)
    head = LanguageHead(weight, None, 0.7, cap, smoothing=0.2)
    found = head.logp(hidden, label)
    logp = head.logits(hidden).log_softmax(1)
    plain = 0.8 * logp.gather(1, label[:, None]).squeeze(1) + 0.2 * logp.mean(1)
    torch.testing.assert_close(found, plain)
    wanted = [hidden] if frozen else [hidden, weight]
    one, other = (torch.autograd.grad(values @ given, wanted, retain_graph=True) for values in (found, plain))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


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
def test_an_encoders_head_is_its_own(head: HeadKind, kind: str) -> None:
    """From hidden states on, at some places, in any order: what the model's own forward says there; with gradients."""
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


@pytest.mark.parametrize("kind", ["llama", "granite", "gemma2"])
def test_the_head_is_the_models_own(kind: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path, kind)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        logits = get_language_head(model).logits(model.base_model(ids).last_hidden_state[0])
    torch.testing.assert_close(logits, out.logits[0])
