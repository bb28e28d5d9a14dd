"""The chunked head against plain log-softmax, values and gradients, frozen and trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from bottega.errors import ModelError
from bottega.models import language_head as chunked_head
from bottega.models import native
from bottega.models.arithmetic import plain as plain_arithmetic
from bottega.models.arithmetic.native import NATIVE
from bottega.models.arithmetic.plain import PLAIN
from bottega.models.language_head import LanguageHead, get_language_head, kl_divergence
from making import make_model, tiny_config


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("scale", "softcap", "bias"), [(1.0, None, False), (0.3, None, True), (1.0, 5.0, False)])
def test_logp_is_log_softmax(
    frozen: bool, scale: float, softcap: float | None, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHUNK_BYTES", "TRAINED_CHUNK_BYTES"):
        monkeypatch.setitem(getattr(chunked_head, name), "cpu", 8 * 13 * 5)
    monkeypatch.setattr(plain_arithmetic, "SOFTMAX_BLOCK_BYTES", 4 * 13 * 2)
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
def test_computing_an_expected_gradient_ahead_changes_no_gradient(
    right: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient computed ahead equals the usual one; a wrong expectation costs a second pass."""
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
def test_label_smoothing_of_log_probabilities(frozen: bool, cap: float | None) -> None:
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


@pytest.mark.parametrize("kind", ["llama", "granite", "gemma2"])
def test_logits_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path, kind)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        logits = get_language_head(model).logits(model.base_model(ids).last_hidden_state[0])
    torch.testing.assert_close(logits, out.logits[0])


def test_the_divergence_and_its_gradient_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked_head.CHUNK_BYTES, "cpu", 4 * 11 * 3)  # three predictions at once
    torch.manual_seed(0)
    states, before = (torch.randn(8, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight, old = (torch.randn(11, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = kl_divergence(LanguageHead(weight, softcap=2.0), states, LanguageHead(old, scale=0.5), before)
    p = (0.5 * before @ old.T).detach().softmax(1)
    q = (2 * torch.tanh(states @ weight.T / 2)).log_softmax(1)
    want = (p * (p.log() - q)).sum(1)
    torch.testing.assert_close(found, want)
    assert (found.detach() >= 0).all()
    slopes = torch.randn(8, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found @ slopes, (states, weight)),
        torch.autograd.grad(want @ slopes, (states, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_likeliest_label_and_a_temperature(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked_head.CHUNK_BYTES, "cpu", 4 * 13 * 3)
    torch.manual_seed(0)
    hidden, label = torch.randn(8, 6), torch.randint(0, 13, (8,))
    head = LanguageHead(torch.randn(13, 6), torch.randn(13), 0.7, softcap)
    assert head.with_temperature(1.0) is head
    for temperature in (1.0, 0.5, 3.0):
        logits = head.logits(hidden) / temperature
        torch.testing.assert_close(head.with_temperature(temperature).logits(hidden), logits)
        logp, best = head.with_temperature(temperature).logp_and_best(hidden, label)
        torch.testing.assert_close(logp, logits.log_softmax(1).gather(1, label[:, None]).squeeze(1))
        assert torch.equal(best, logits.argmax(1))


@pytest.mark.parametrize("frozen", [True, False])
def test_states_that_do_not_lie_row_by_row(frozen: bool) -> None:
    weight = torch.randn(77, 64).bfloat16().requires_grad_(not frozen)
    hidden, label = torch.randn(64, 40).bfloat16().T.requires_grad_(), torch.randint(0, 77, (40,))
    for arithmetic in (PLAIN, NATIVE) if native.operators() is not None else (PLAIN,):
        logp = LanguageHead(weight, arithmetic=arithmetic).logp(hidden, label)
        (gradient,) = torch.autograd.grad(logp.sum(), hidden)
        exact = (hidden.double() @ weight.double().T).log_softmax(1).gather(1, label[:, None])
        (wanted,) = torch.autograd.grad(exact.sum(), hidden)
        assert (gradient - wanted).abs().max() <= 0.05 * wanted.abs().max()


def test_no_positions_give_empty_scores() -> None:
    head = LanguageHead(torch.randn(13, 6, requires_grad=True))
    hidden, label = torch.randn(0, 6, requires_grad=True), torch.zeros(0, dtype=torch.long)
    assert head.logp(hidden, label).shape == (0,)
    assert kl_divergence(head, hidden, head, hidden).shape == (0,)


def test_very_unlikely_labels_have_finite_log_probabilities_and_gradients() -> None:
    hidden, weight = torch.full((1, 1), 200.0, requires_grad=True), torch.tensor([[1.0], [-1.0]])
    logp = LanguageHead(weight).logp(hidden, torch.tensor([1]))
    assert logp.item() == -400
    (gradient,) = torch.autograd.grad(logp.sum(), hidden)
    assert gradient.item() == pytest.approx(-2.0)


def test_a_model_without_a_language_head_is_refused() -> None:
    with pytest.raises(ModelError, match="LlamaModel has no language-model head"):
        get_language_head(AutoModel.from_config(tiny_config("llama")))
