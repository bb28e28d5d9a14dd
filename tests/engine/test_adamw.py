"""AdamW: the updates of torch's, in chunks and at once, and of the rows of an embedding that were looked up."""

from __future__ import annotations

import pytest
import torch
from networks import Lookup, backward_of_lookups, model, step

from bottega.engine import adamw
from bottega.engine import master_weights as weights
from bottega.engine.adamw import MOMENTS, AdamW
from bottega.engine.master_weights import CopiedMasterWeight, SplitMasterWeight, make_master_weight
from bottega.engine.optimizer import Optimizer
from bottega.models import native
from bottega.recipe.schema import Optim


def test_float32_updates_equal_torch_adamw() -> None:
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


@pytest.mark.parametrize("part", [5, 1 << 20])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_equals_torch_in_chunks_and_at_once(part: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors do not decay; a weight without a gradient stays, and so does its count of steps."""
    monkeypatch.setitem(adamw.CHUNK_SIZE, "cpu", part)
    ours, theirs = model(), model()
    optimizer = Optimizer(ours, Optim(weight_decay=decay, clip=None))
    groups = [
        {"params": [w for w in theirs.parameters() if (w.dim() >= 2) == matrices], "weight_decay": decay * matrices}
        for matrices in (True, False)
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    for number in range(5):
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if number != 2 or name != "1.weight":
                other.grad = torch.randn_like(one)
                optimizer.gradients[name] = other.grad.clone()
        optimizer.step(1e-2, optimizer.norm())
        assert not optimizer.gradients
        reference.step()
        reference.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    steps = {name: int(value) for name, value in optimizer.state().items() if name.endswith("|step")}
    assert (steps["1.weight|step"], steps["3.weight|step"]) == (4, 5)


@pytest.mark.parametrize("max_fraction", [0.0, 0.3, 1.0])
def test_sparse_gradients_give_the_updates_of_dense_ones(max_fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that had a gradient once keeps moving by its moments, the others stay, as with torch's AdamW."""
    monkeypatch.setattr("bottega.engine.optimizer.LARGE_WEIGHT", 1)
    monkeypatch.setattr(adamw, "MAX_SPARSE_FRACTION", max_fraction)
    ours, theirs = Lookup(), Lookup()
    optimizer = Optimizer(ours, Optim(clip=0.5))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for number in range(8):
        backward_of_lookups(ours, number)
        backward_of_lookups(theirs, number)
        assert optimizer.gradients["table.weight"].is_sparse
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        torch.testing.assert_close(optimizer.norm(), norm)
        optimizer.step(1e-2, optimizer.norm())
        reference.step()
        reference.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.table.weight[39], Lookup().table.weight[39])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_state_resumes_exactly(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottega.engine.optimizer.LARGE_WEIGHT", 1)
    monkeypatch.setattr(weights, "LARGE_WEIGHT", 1)
    network = [Lookup().to(dtype) for _ in range(3)]
    whole, cut, fresh = (Optimizer(one, Optim()) for one in network)
    for number in range(6):
        if number == 3:
            fresh.load_state({key: value.clone() for key, value in cut.state().items()})
        second = 1 if number < 3 else 2
        for one in (0, second):
            backward_of_lookups(network[one], number)
            optimizer = (whole, cut, fresh)[one]
            optimizer.step(1e-2, optimizer.norm())
    assert int(whole.state()["table.weight|seen"].sum()) in range(10, 30)
    for key, value in whole.state().items():
        assert torch.equal(value, fresh.state()[key]), key


def test_a_divisor_divides_the_gradients() -> None:
    """The kernel divides them itself; it must be by the same number for each chunk and for rows of an embedding."""
    moved = []
    for factor in (1.0, 8.0):
        network = model()
        masters = [make_master_weight(name, weight) for name, weight in network.named_parameters()]
        rule = AdamW(masters, (0.9, 0.95), 0.1)
        for seed in range(3):
            torch.manual_seed(seed)
            gradients = {one.name: factor * torch.randn_like(one.parameter) for one in masters}
            rule.step(gradients, 1e-2, torch.tensor(factor))
            assert not gradients, "gradients are taken from the dictionary"
        moved.append([weight.detach().clone() for weight in network.parameters()])
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")
@pytest.mark.parametrize("gradient_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [SplitMasterWeight, CopiedMasterWeight])
def test_updates_in_cpp_are_those_of_torch(
    kind: type, gradient_dtype: torch.dtype, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGE_WEIGHT", 1 if kind is SplitMasterWeight else 1 << 20)
    torch.manual_seed(0)
    start = torch.randn(301, 33).bfloat16()  # not a multiple of what is updated at once
    rules = []
    for in_cpp in (True, False):
        weight = make_master_weight("w", torch.nn.Parameter(start.clone()))
        assert type(weight) is kind
        rules.append(AdamW([weight], (0.9, 0.95), decay, native=in_cpp))
    for _ in range(4):
        gradient = torch.randn(301, 33).to(gradient_dtype)
        for rule in rules:
            rule.step({"w": gradient.clone()}, 1e-2, torch.tensor(1.7))
    (fast, slow) = (rule.weights["w"] for rule in rules)
    torch.testing.assert_close(fast.read(), slow.read(), rtol=1e-6, atol=1e-7)
    for key in MOMENTS:
        torch.testing.assert_close(*(rule.state["w"][key] for rule in rules), rtol=1e-6, atol=1e-7)
    # The weight is its master, rounded.
    assert (fast.parameter.float() - fast.read().view_as(start)).abs().max() <= 2**-8 * start.abs().max() * 1.1


def test_a_float32_weight_is_updated_by_torch() -> None:
    weight = make_master_weight("w", torch.nn.Parameter(torch.ones(4, 4)))
    rule = AdamW([weight], (0.9, 0.95), 0.0, native=True)
    assert not rule._fits_native("w", torch.ones(4, 4))
    rule.step({"w": torch.ones(4, 4)}, 0.1, None)
    torch.testing.assert_close(weight.read(), torch.full((16,), 0.9))
