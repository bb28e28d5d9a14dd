"""The optimizer: gradients collected and clipped, groups of weights, and state that resumes exactly."""

from __future__ import annotations

import gc
import weakref
from typing import get_args

import pytest
import torch
from networks import Lookup, model, step
from torch import nn

from bottega.engine import optimizer
from bottega.engine.optimizer import Optimizer, freeze, layer_lr_factors
from bottega.errors import CheckpointError, RecipeError
from bottega.models import native
from bottega.recipe.schema import Optim
from bottega.recipe.schema import Optimizer as Rule


def test_an_optimizer_is_freed_after_its_run() -> None:
    """Hooks of weights are invisible to the garbage collector, so they must not keep the optimizer alive."""
    network = model()
    optimizer = Optimizer(network, Optim())
    step(network, optimizer)
    references = [weakref.ref(one) for one in (optimizer, network, network[1].weight)]
    del network, optimizer
    gc.collect()
    assert [one() for one in references] == [None, None, None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_micro_batches_add_up_in_float32(dtype: torch.dtype) -> None:
    """The float32 sum of what each micro-batch alone gives; a single one needs no wider copy."""
    network, alone = model(dtype), model(dtype)
    optimizer = Optimizer(network, Optim())
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in alone.named_parameters()}
    for number, part in enumerate(torch.arange(8).reshape(4, -1)):
        (network(part % 7).float().pow(2).sum() / 8).backward()
        (alone(part % 7).float().pow(2).sum() / 8).backward()
        for name, weight in alone.named_parameters():
            assert weight.grad is not None
            sums[name] += weight.grad
            weight.grad = None
        assert {g.dtype for g in optimizer.gradients.values()} == {dtype if number == 0 else torch.float32}
    for name, total in sums.items():
        assert torch.equal(optimizer.gradients[name], total), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_clipping_equals_torch(optimizer: str, dtype: torch.dtype) -> None:
    network, plain = model(dtype), model()
    ours = Optimizer(network, Optim(clip=1e-3, optimizer=optimizer), ["0.weight"])  # type: ignore[arg-type]
    torchs = Optimizer(plain, Optim(clip=None, optimizer=optimizer), ["0.weight"])  # type: ignore[arg-type]
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        other.data.copy_(one.data)
    for _ in range(3):
        given = {name: torch.randn_like(weight) for name, weight in plain.named_parameters()}
        ours.gradients = {name: gradient.to(dtype) * ours.scale for name, gradient in given.items()}
        exact = {name: (gradient.float() / ours.scale) for name, gradient in ours.gradients.items()}
        holders = [nn.Parameter(torch.zeros_like(gradient)) for gradient in exact.values()]
        for holder, gradient in zip(holders, exact.values(), strict=True):
            holder.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(holders, 1e-3)
        torch.testing.assert_close(ours.norm(), norm)
        ours.step(1e-2, ours.norm())
        torchs.gradients = {name: holder.grad for name, holder in zip(exact, holders, strict=True)}
        torchs.step(1e-2, norm)
    for moved, exactly in zip(ours.weights, torchs.weights, strict=True):
        torch.testing.assert_close(moved.read(), exactly.read(), rtol=1e-3, atol=1e-4)


def test_only_untied_large_embeddings_get_sparse_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where a head shares the weight, where every row decays, or where the table is small."""
    assert not optimizer.enable_sparse_gradients(Lookup())
    monkeypatch.setattr("bottega.engine.optimizer.LARGE_WEIGHT", 1)
    assert optimizer.enable_sparse_gradients(Lookup()) == {"table.weight"}
    assert not optimizer.enable_sparse_gradients(Lookup(tied=True))
    decayed = Lookup()
    Optimizer(decayed, Optim(weight_decay=0.1))
    assert not decayed.table.sparse
    frozen = Lookup()
    frozen.table.requires_grad_(False)
    assert not optimizer.enable_sparse_gradients(frozen)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_resumes_exactly(name: str, dtype: torch.dtype) -> None:
    whole, cut = model(dtype), model(dtype)
    settings = Optim(optimizer=name, ema=0.9, layer_decay=0.7)  # type: ignore[arg-type]
    one, two = (Optimizer(network, settings, ["0.weight"]) for network in (whole, cut))
    for _ in range(3):
        step(whole, one)
        step(cut, two)
    fresh = model(dtype)
    three = Optimizer(fresh, settings, ["0.weight"])
    three.load_state({key: value.clone() for key, value in two.state().items()})
    with pytest.raises(CheckpointError, match="another version wrote it"):
        three.load_state({key: value for key, value in two.state().items() if not key.startswith("1.weight")})
    for _ in range(3):
        step(whole, one)
        step(fresh, three)
    for key, value in one.state().items():
        assert torch.equal(value, three.state()[key]), key


def test_small_gradients_survive_float16() -> None:
    network, plain = model(torch.float16), model()
    optimizer = Optimizer(network, Optim())
    batch = torch.arange(8) % 7
    (network(batch).float().pow(2).sum() * 1e-6 * optimizer.scale).backward()
    (plain(batch).pow(2).sum() * 1e-6).backward()
    for name, weight in plain.named_parameters():
        assert weight.grad is not None
        gradient = optimizer.gradients[name].float() / optimizer.scale
        assert (gradient - weight.grad).norm() < 0.05 * weight.grad.norm()


def test_learning_rates_decay_towards_lower_layers() -> None:
    bert = ["bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.bias", "bert.encoder.layer.0.a.weight"]
    rates = layer_lr_factors([*bert, "bert.encoder.layer.1.a.weight", "classifier.weight"], 0.5)
    assert list(rates.values()) == [0.125, 0.125, 0.25, 0.5, 1.0]
    mixture = [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.experts.7.w.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]
    assert list(layer_lr_factors(mixture, 0.1).values()) == pytest.approx([0.01, 0.1, 1.0, 1.0])
    assert set(layer_lr_factors(mixture, 1.0).values()) == {1.0}


def test_updates_follow_the_learning_rate_of_the_layer() -> None:
    network = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), "head": nn.Linear(4, 4)})
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = Optimizer(network, Optim(layer_decay=0.5, clip=None))
    optimizer.gradients = {name: torch.ones_like(weight) for name, weight in network.named_parameters()}
    optimizer.step(1e-2, optimizer.norm())
    moved = {name: float((before[name] - weight.detach()).mean()) for name, weight in network.named_parameters()}
    for name, rate in (("layers.0.weight", 0.25), ("layers.1.bias", 0.5), ("head.weight", 1.0)):
        assert moved[name] == pytest.approx(rate * 1e-2, rel=1e-3)


def test_frozen_weights_are_not_trained() -> None:
    network = model()
    freeze(network, ["0.*", "2.bias"])
    assert {one.name for one in Optimizer(network, Optim()).weights} == {
        "1.weight", "1.bias", "2.weight", "3.weight", "3.bias"
    }  # fmt: skip
    with pytest.raises(RecipeError, match="matches no trained weight"):
        freeze(network, ["embeddings.*"])
    with pytest.raises(RecipeError, match="all weights are frozen"):
        freeze(network, ["*"])


@pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_norm_in_cpp_is_that_of_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "LARGE_WEIGHT", 50)
    torch.manual_seed(0)
    # Larger than a block of the operator, transposed, and small: the last two are left to torch.
    gradients = [torch.randn(300, 301), torch.randn(40, 30).T, torch.randn(7)]
    made = Optimizer(model(dtype), Optim(), native=True)
    made.gradients = {str(index): gradient.to(dtype) for index, gradient in enumerate(gradients)}
    exact = torch.cat([gradient.to(dtype).double().flatten() for gradient in gradients]).norm()
    torch.testing.assert_close(made.norm().double(), exact, rtol=1e-5, atol=0)


def test_a_weight_may_have_a_learning_rate_of_its_own() -> None:
    network, alone = model(), model()
    faster = Optimizer(network, Optim(clip=None), lr_factor=lambda name: 4.0 if name == "1.weight" else 1.0)
    plain = Optimizer(alone, Optim(clip=None))
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for weights, rule in ((network, faster), (alone, plain)):
        rule.gradients = {name: torch.ones_like(weight) for name, weight in weights.named_parameters()}
        rule.step(1e-3, rule.norm())
    for name, usual in alone.named_parameters():
        own = dict(network.named_parameters())[name]
        moved, expected = (float((weight.detach() - before[name]).abs().max()) for weight in (own, usual))
        assert moved == pytest.approx((4 if name == "1.weight" else 1) * expected, rel=1e-4), name


@pytest.mark.parametrize("rule", get_args(Rule))
def test_every_rule_goes_on_from_its_state(rule: str) -> None:
    """Three updates, a checkpoint and three more are six updates, to the last bit; state may not be shared."""
    settings = Optim(optimizer=rule, weight_decay=0.1)  # type: ignore[arg-type]

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(7, 64), nn.Linear(64, 96), nn.LayerNorm(96), nn.Linear(96, 3))

    whole, first, second = network(), network(), network()
    one, two, three = (Optimizer(each, settings, ["0.weight"]) for each in (whole, first, second))
    losses = []
    for number in range(6):
        step(whole, one)
        losses.append(whole(torch.arange(7)).pow(2).sum().item())
        if number < 3:
            step(first, two)
    three.load_state({key: value.clone() for key, value in two.state().items()})
    for _ in range(3):
        step(second, three)
    assert losses[-1] < losses[0]
    for weight, wanted in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(weight, wanted)


def test_the_scale_of_float16_shrinks_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "UPDATES_BEFORE_GROWTH", 2)
    network = model(torch.float16)
    ours = Optimizer(network, Optim())
    assert ours.scale == optimizer.FLOAT16_SCALE
    assert ours.shrink_scale()
    assert (ours.scale, ours.gradients) == (optimizer.FLOAT16_SCALE / 2, {})
    step(network, ours)
    again = Optimizer(model(torch.float16), Optim())
    again.load_state(ours.state())
    assert (again.scale, again.updates_at_scale) == (ours.scale, 1)
    step(network, ours)
    assert ours.scale == optimizer.FLOAT16_SCALE
    ours.scale = 1.0
    assert not ours.shrink_scale()
    assert "|loss_scale" not in Optimizer(model(), Optim()).state()


def test_the_scale_of_float16_grows_again_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run that is resumed there goes on from it."""
    monkeypatch.setattr(optimizer, "UPDATES_BEFORE_GROWTH", 2)
    network = model(torch.float16)
    ours = Optimizer(network, Optim())
    ours.scale, ours.updates_at_scale = 1.0, 0
    step(network, ours)
    again = Optimizer(model(torch.float16), Optim())
    again.load_state(ours.state())
    assert (again.scale, again.updates_at_scale) == (1.0, 1)
    step(network, ours)
    assert ours.scale == 2.0
