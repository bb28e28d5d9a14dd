"""Masters, groups, clipping, and state that goes on exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bottega.engine import muon
from bottega.engine.optim import Optimizer
from bottega.recipe import Optim


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)


def step(made: nn.Module, optimizer: Optimizer, lr: float = 1e-2, parts: int = 1) -> torch.Tensor:
    for part in torch.arange(8).reshape(parts, -1):
        (made(part % 7).float().pow(2).sum() / 8).backward()
    norm = optimizer.norm()
    optimizer.step(lr, norm)
    return norm


def test_float32_is_plain_adamw() -> None:
    ours, plain = model(), model()
    optimizer = Optimizer(ours, Optim(clip=None))
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(5):
        step(ours, optimizer)
        reference.zero_grad()
        (plain(torch.arange(8) % 7).pow(2).sum() / 8).backward()
        reference.step()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_half_precision_loses_no_small_update() -> None:
    """Ten thousand updates each too small for bfloat16 to show still add up in the masters."""
    made = model(torch.bfloat16)
    optimizer = Optimizer(made, Optim(clip=None))
    before = {name: weight.clone() for name, weight in made.named_parameters()}
    for _ in range(200):
        step(made, optimizer, lr=1e-5)
    assert any(not torch.equal(weight, before[name]) for name, weight in made.named_parameters())
    for name, weight in made.named_parameters():
        assert torch.equal(weight, optimizer.masters[name].bfloat16())
        assert weight.grad is None


def test_gradients_of_micro_batches_add_up_in_float32() -> None:
    made = model(torch.bfloat16)
    optimizer = Optimizer(made, Optim())
    for part in torch.arange(8).reshape(4, -1):
        (made(part % 7).float().pow(2).sum() / 8).backward()
    assert all(master.grad is not None and master.grad.dtype == torch.float32 for master in optimizer.masters.values())


def test_the_norm_is_clipped() -> None:
    made = model()
    optimizer = Optimizer(made, Optim(clip=1e-3))
    (made(torch.arange(8) % 7).pow(2).sum()).backward()
    norm = optimizer.norm()
    assert norm > 1e-3
    torch.nn.utils.clip_grads_with_norm_(list(optimizer.masters.values()), 1e-3, norm)
    assert float(optimizer.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_weights_decay_but_not_norms_and_biases() -> None:
    optimizer = Optimizer(model(), Optim(weight_decay=0.1))
    (part,) = optimizer.parts
    decays = {id(weight): group["weight_decay"] for group in part.param_groups for weight in group["params"]}
    for master in optimizer.masters.values():
        assert decays[id(master)] == (0.1 if master.dim() >= 2 else 0.0)


def test_muon_takes_the_matrices_but_no_embedding() -> None:
    made = model()
    optimizer = Optimizer(made, Optim(optimizer="muon"), embeddings=["0.weight"])
    muon, adamw = optimizer.parts
    assert isinstance(muon, torch.optim.Muon)
    assert {id(w) for group in muon.param_groups for w in group["params"]} == {id(made[1].weight), id(made[3].weight)}
    assert any(w is made[0].weight for group in adamw.param_groups for w in group["params"])


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_on_exactly(name: str, dtype: torch.dtype) -> None:
    whole, cut = model(dtype), model(dtype)
    one, two = (Optimizer(made, Optim(optimizer=name), ["0.weight"]) for made in (whole, cut))  # type: ignore[arg-type]
    for _ in range(3):
        step(whole, one)
        step(cut, two)
    fresh = model(dtype)
    three = Optimizer(fresh, Optim(optimizer=name), ["0.weight"])  # type: ignore[arg-type]
    three.load_state({key: value.clone() for key, value in two.state().items()})
    for _ in range(3):
        step(whole, one)
        step(fresh, three)
    for key, value in one.state().items():
        assert torch.equal(value, three.state()[key]), key


def test_small_gradients_survive_float16() -> None:
    made, plain = model(torch.float16), model()
    optimizer = Optimizer(made, Optim())
    batch = torch.arange(8) % 7
    (made(batch).float().pow(2).sum() * 1e-6 * optimizer.scale).backward()
    (plain(batch).pow(2).sum() * 1e-6).backward()
    for name, weight in plain.named_parameters():
        gradient = optimizer.masters[name].grad
        assert (gradient - weight.grad).norm() < 0.05 * weight.grad.norm()


@pytest.mark.parametrize("together", [1, 1 << 24])
def test_muon_is_torchs(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked or one by one, standing or lying, the steps are those of `torch.optim.Muon`."""
    monkeypatch.setattr(muon, "TOGETHER", together)
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 24), (24, 8), (8, 8), (24, 8), (5, 3)]
    ours, theirs = ([nn.Parameter(torch.randn(shape) / 3) for shape in shapes] for _ in range(2))
    for one, other in zip(ours, theirs, strict=True):
        other.data.copy_(one.data)
    settings = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = [muon.Muon(ours, **settings), torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")]
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
