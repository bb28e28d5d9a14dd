"""Master weights, parameter groups, clipping, and state that resumes exactly."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from bottega.engine import adamw, muon, optimizer
from bottega.engine import master_weights as weights
from bottega.engine.master_weights import CopiedMasterWeight, SplitMasterWeight, make_master_weight
from bottega.engine.optimizer import Optimizer, freeze, layer_lr_factors
from bottega.errors import CheckpointError, RecipeError
from bottega.hardware.device import has_native_dtype
from bottega.recipe.schema import Optim


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)


def step(network: nn.Module, optimizer: Optimizer, lr: float = 1e-2, parts: int = 1) -> torch.Tensor:
    for part in torch.arange(8).reshape(parts, -1):
        (network(part % 7).float().pow(2).sum() / 8).backward()
    norm = optimizer.norm()
    optimizer.step(lr, norm)
    return norm


def test_an_optimizer_is_freed_after_its_run() -> None:
    """Hooks of weights are invisible to the garbage collector, so they must not keep the optimizer alive."""
    network = model()
    optimizer = Optimizer(network, Optim())
    step(network, optimizer)
    references = [weakref.ref(one) for one in (optimizer, network, network[1].weight)]
    del network, optimizer
    gc.collect()
    assert [one() for one in references] == [None, None, None]


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


def test_small_updates_are_not_lost_in_half_precision() -> None:
    """Ten thousand updates each too small for bfloat16 to show still add up in the masters."""
    network = model(torch.bfloat16)
    optimizer = Optimizer(network, Optim(clip=None))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    for _ in range(200):
        step(network, optimizer, lr=1e-5)
    assert any(not torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    for one in optimizer.weights:
        assert torch.equal(one.parameter, one.read().view(one.parameter.shape).bfloat16())
        assert one.parameter.grad is None


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


class Lookup(nn.Module):
    """An embedding of 40 rows, of which a step reads few, and of one the projection back where tied."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(40, 6, padding_idx=3), nn.Linear(6, 40, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids).tanh())


def backward_of_lookups(network: nn.Module, number: int, scale: float = 1.0) -> None:
    """Two micro-batches, in which tokens come twice, and padding."""
    for part in range(2):
        ids = torch.tensor([3, 5, 5, 7 + number % 9, 2 * number + part])
        (scale * network(ids).float().pow(2).sum()).backward()


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


def test_muon_updates_matrices_but_not_embeddings() -> None:
    optimizer = Optimizer(model(), Optim(optimizer="muon"), not_for_muon=["0.weight"])
    taken = [set(rule.state) for _, rule in optimizer.rules]
    assert taken == [{"1.weight", "3.weight"}, {"0.weight"}, {"1.bias", "2.weight", "2.bias", "3.bias"}]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_moving_average(dtype: torch.dtype) -> None:
    network = model(dtype)
    optimizer = Optimizer(network, Optim(ema=0.5))
    averages = {one.name: one.read().clone() for one in optimizer.weights}
    for number in range(1, 4):
        step(network, optimizer)
        keep = min(0.5, (1 + number) / (10 + number))
        averages = {one.name: keep * averages[one.name] + (1 - keep) * one.read() for one in optimizer.weights}
    own = {one.name: one.parameter.detach().clone() for one in optimizer.weights}
    with optimizer.averaged_weights():
        for one in optimizer.weights:
            torch.testing.assert_close(one.parameter.view(-1).float(), averages[one.name].to(dtype).float())
            assert not torch.equal(one.parameter, own[one.name])
    assert all(torch.equal(one.parameter, own[one.name]) for one in optimizer.weights)
