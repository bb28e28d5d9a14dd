"""Muon: the updates of torch's, for matrices alone, stacked or one by one."""

from __future__ import annotations

import pytest
import torch
from networks import model
from torch import nn

from bottega.engine import muon
from bottega.engine.master_weights import make_master_weight
from bottega.engine.optimizer import Optimizer
from bottega.hardware.device import has_native_dtype
from bottega.recipe.schema import Optim


def test_muon_updates_matrices_but_not_embeddings() -> None:
    optimizer = Optimizer(model(), Optim(optimizer="muon"), not_for_muon=["0.weight"])
    taken = [set(rule.state) for _, rule in optimizer.rules]
    assert taken == [{"1.weight", "3.weight"}, {"0.weight"}, {"1.bias", "2.weight", "2.bias", "3.bias"}]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("together", [1, 1 << 24])
def test_muon_equals_torch(together: int, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked or one by one, tall or wide, in bfloat16 or not, the updates are those of `torch.optim.Muon`."""
    monkeypatch.setattr(muon, "MAX_STACK_SIZE", together)
    monkeypatch.setattr(muon, "has_native_dtype", lambda *_: half)
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 24), (24, 8), (8, 8), (24, 8), (5, 3)]
    ours, theirs = ([nn.Parameter(torch.randn(shape) / 3) for shape in shapes] for _ in range(2))
    for one, other in zip(ours, theirs, strict=True):
        other.data.copy_(one.data)
    rule = muon.Muon([make_master_weight(str(number), weight) for number, weight in enumerate(ours)], weight_decay=0.1)
    torchs = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for other in theirs:
            other.grad = torch.randn_like(other)
        rule.step(
            {str(number): other.grad.clone() for number, other in enumerate(theirs) if other.grad is not None},
            0.02,
            None,
        )
        torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_muon_uses_bfloat16_only_where_it_is_native() -> None:
    """Elsewhere its products took thirty times as long, and half of a run's time."""
    seen = muon._orthogonalize(torch.randn(2, 4, 8))
    assert seen.dtype == (torch.bfloat16 if has_native_dtype(torch.bfloat16, "cpu") else torch.float32)
