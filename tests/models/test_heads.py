"""The chunked head against plain log-softmax, values and gradients, frozen and trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.models import heads
from bottega.models.heads import LanguageHead, language_head
from making import make_model


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("scale", "softcap", "bias"), [(1.0, None, False), (0.3, None, True), (1.0, 5.0, False)])
def test_logp_is_log_softmax(
    frozen: bool, scale: float, softcap: float | None, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHUNK", "TRAINED_CHUNK"):
        monkeypatch.setattr(heads, name, 8 * 13 * 5)
    monkeypatch.setattr(heads, "BLOCK", 4 * 13 * 2)
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
    monkeypatch.setattr(heads, "TRAINED_CHUNK", 8 * 13 * 5)
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((13, 6), (13,)))
    label, share = torch.randint(0, 13, (11,)), torch.rand(11, dtype=torch.float64)
    head = LanguageHead(weight, bias, 0.7, softcap)
    gradient = -0.3 * share if right else torch.randn_like(share)
    plain = torch.autograd.grad(head.logp(hidden, label) @ gradient, (hidden, weight, bias))
    passes: list[int] = []
    whole = heads._gradients
    monkeypatch.setattr(heads, "_gradients", lambda *arguments: passes.append(1) or whole(*arguments))
    ahead = torch.autograd.grad(head.logp(hidden, label, share) @ gradient, (hidden, weight, bias))
    assert len(passes) == (1 if right else 2)
    for one, other in zip(ahead, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["llama", "granite", "gemma2"])
def test_the_head_is_the_models_own(kind: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path, kind)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        logits = language_head(model).logits(model.base_model(ids).last_hidden_state[0])
    torch.testing.assert_close(logits, out.logits[0])
