"""Masters of weights in half precision: nothing is lost, and each kind of master gets the same updates."""

from __future__ import annotations

import pytest
import torch
from networks import model, step
from torch import nn

from bottega.engine import master_weights as weights
from bottega.engine.master_weights import (
    ALL,
    CopiedMasterWeight,
    MasterWeight,
    Selection,
    SplitMasterWeight,
    at_least_float32,
    make_master_weight,
)
from bottega.engine.optimizer import Optimizer
from bottega.recipe.schema import Optim


def test_small_updates_are_not_lost_in_half_precision() -> None:
    """Updates that are each too small for bfloat16 to show still add up in the masters."""
    network = model(torch.bfloat16)
    optimizer = Optimizer(network, Optim(clip=None))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    for _ in range(200):
        step(network, optimizer, lr=1e-5)
    assert any(not torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    for one in optimizer.weights:
        assert torch.equal(one.parameter, one.read().view(one.parameter.shape).bfloat16())
        assert one.parameter.grad is None


def test_a_split_weight_is_the_rounded_master() -> None:
    """Every float32 comes back bit by bit; the weight is the nearest bfloat16, of two as near the larger."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(300, 300).bfloat16())
    one = make_master_weight("weight", weight)
    assert isinstance(one, SplitMasterWeight)
    assert torch.equal(one.read(), weight.detach().float().view(-1))
    bits = torch.randint(-(1 << 31), 1 << 31, (300 * 300,)).int()
    bits[:1000] = (bits[:1000] & ~0xFFFF) | 0x8000  # half way between two
    master = bits.view(torch.float32)
    master[~torch.isfinite(master) | (master.abs() > 3e38)] = -0.0
    before = master.clone()
    one.write(master)
    assert torch.equal(one.read().view(torch.int32), before.view(torch.int32))
    rounded, ties = before.bfloat16(), (before.view(torch.int32) & 0xFFFF) == 0x8000
    assert ties.sum() >= 900
    assert torch.equal(weight.detach().view(-1)[~ties], rounded[~ties])
    up = torch.where(before < 0, -torch.inf, torch.inf)
    larger = torch.where(rounded.float().abs() > before.abs(), rounded, torch.nextafter(rounded, up.bfloat16()))
    assert torch.equal(weight.detach().view(-1)[ties], larger[ties])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_split_and_copied_masters_get_equal_updates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    for large in (1, 1 << 30):
        monkeypatch.setattr(weights, "LARGE_WEIGHT", large)
        network = model(torch.bfloat16)
        optimizer = Optimizer(network, Optim(optimizer=name), ["0.weight"])  # type: ignore[arg-type]
        torch.manual_seed(1)
        for _ in range(20):
            optimizer.gradients = {one.name: torch.randn_like(one.parameter) for one in optimizer.weights}
            optimizer.step(1e-2, optimizer.norm())
        assert {type(one) for one in optimizer.weights} == {SplitMasterWeight if large == 1 else CopiedMasterWeight}
        moved.append({one.name: one.read().clone() for one in optimizer.weights})
    for key, master in moved[0].items():
        assert torch.equal(master, moved[1][key]), key


@pytest.mark.parametrize(
    ("dtype", "shape", "kind"),
    [
        (torch.float32, (300, 300), MasterWeight),
        (torch.float64, (2, 3), MasterWeight),
        (torch.bfloat16, (300, 300), SplitMasterWeight),
        (torch.bfloat16, (2, 3), CopiedMasterWeight),
        (torch.float16, (300, 300), CopiedMasterWeight),
    ],
)
def test_the_master_that_a_dtype_and_a_size_need(dtype: torch.dtype, shape: tuple[int, int], kind: type) -> None:
    parameter = nn.Parameter(torch.randn(shape).to(dtype))
    master = make_master_weight("weight", parameter)
    assert type(master) is kind
    assert master.read().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(master.read().view(shape).to(dtype), parameter)


def split(parameter: nn.Parameter) -> MasterWeight:
    return SplitMasterWeight("weight", parameter)


def copied(parameter: nn.Parameter) -> MasterWeight:
    return CopiedMasterWeight("weight", parameter)


@pytest.mark.parametrize("make", [split, copied])
@pytest.mark.parametrize("selection", [ALL, slice(3, 7), torch.tensor([0, 3])])
def test_only_selected_elements_are_updated(make: type, selection: Selection) -> None:
    """A tensor selects rows, here of two elements each."""
    parameter = nn.Parameter(torch.arange(10.0).bfloat16().view(5, 2))
    master = make(parameter)
    part = master.read(selection)
    part += 1e-4  # less than bfloat16 shows
    master.write(part, selection)
    chosen = torch.zeros(5, 2, dtype=torch.bool)
    chosen[selection if isinstance(selection, torch.Tensor) else ALL] = isinstance(selection, torch.Tensor)
    if not isinstance(selection, torch.Tensor):
        chosen.view(-1)[selection] = True
    wanted = torch.where(chosen, torch.arange(10.0).view(5, 2) + 1e-4, torch.arange(10.0).view(5, 2))
    torch.testing.assert_close(master.read().view(5, 2), wanted, rtol=0, atol=1e-7)
    assert torch.equal(parameter, wanted.bfloat16())


def test_a_transposed_weight_is_updated_in_place() -> None:
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3).T)
    master = make_master_weight("weight", parameter)
    master.read(slice(0, 2)).add_(10.0)
    assert parameter.tolist() == [[10.0, 13.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize("make", [split, copied])
def test_a_master_is_restored_with_its_weight(make: type) -> None:
    one, other = (make(nn.Parameter(torch.full((4,), value).bfloat16())) for value in (1.0, 2.0))
    master = one.read()
    master += 1e-4
    moved = master.clone()
    one.write(master)
    other.load({name: tensor.clone() for name, tensor in one.tensors.items()})
    torch.testing.assert_close(other.read(), moved, rtol=0, atol=0)
    assert torch.equal(other.parameter, one.parameter)


def test_float32_is_the_narrowest_that_is_computed_in() -> None:
    dtypes = [
        at_least_float32(torch.zeros(1, dtype=one)).dtype for one in (torch.float16, torch.float32, torch.float64)
    ]
    assert dtypes == [torch.float32, torch.float32, torch.float64]
