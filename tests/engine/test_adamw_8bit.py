"""AdamW with moments in 8 bits: beside AdamW, its codes, its size, and moments that change little in an update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bottega.engine import adamw
from bottega.engine.adamw_8bit import BLOCK, MIN_ELEMENTS, AdamW8bit
from bottega.engine.master_weights import make_master_weight
from bottega.engine.optimizer import Optimizer
from bottega.recipe.schema import Optim

BETAS = (0.9, 0.999)


def rule_for(weight: nn.Parameter, decay: float = 0.0) -> AdamW8bit:
    return AdamW8bit([make_master_weight("one", weight)], BETAS, decay)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 80), (3, 17, 101)])
def test_it_moves_weights_as_adamw_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Within some hundredths of how far they move, though gradients in a block differ by a thousand."""
    torch.manual_seed(0)
    start = torch.randn(shape).to(dtype)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.float().clone())
    rule, reference = rule_for(ours, 0.1), torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1)
    direction = torch.randn(shape)
    for _ in range(60):
        theirs.grad = (direction + torch.randn(shape)) * torch.logspace(-3, 0, shape[-1])
        rule.step({"one": 8 * theirs.grad}, 1e-2, torch.tensor(8.0))
        reference.step()
    moved = theirs.detach() - start.float()
    off = (rule.weights["one"].read().view(shape) - theirs.detach()).square().mean().sqrt()
    assert off <= 0.1 * moved.square().mean().sqrt()


def test_large_weights_are_updated_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1 << 20, 2 * BLOCK):
        monkeypatch.setitem(adamw.CHUNK_SIZE, "cpu", size)
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(30, 41))
        rule = rule_for(weight)
        for _ in range(3):
            rule.step({"one": torch.randn(30, 41)}, 1e-2, None)
        found.append((weight.detach().clone(), rule.state["one"]["exp_avg_scale"].clone()))
    # The noise is that of the place in a chunk, which decides the last bits.
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1][1], found[0][1])


def test_a_mean_of_squares_follows_gradients_that_stay_small() -> None:
    """Rounded to nearest it would stay at what one large gradient left: each update changes it by a thousandth."""
    weight = nn.Parameter(torch.zeros(64, 64))
    rule, plain = rule_for(weight), torch.tensor(0.0)
    for number in range(800):
        gradient = 1.0 if number == 0 else 0.01
        rule.step({"one": torch.full((64, 64), gradient)}, 0.0, None)
        plain = 0.999 * plain + 0.001 * gradient**2
    state = rule.state["one"]
    squares = (state["exp_avg_sq"].float() / 255) ** 8 * state["exp_avg_sq_scale"].repeat_interleave(BLOCK)
    assert float(squares.mean()) == pytest.approx(float(plain), rel=0.1)


def test_small_weights_and_vectors_keep_their_moments_in_float32() -> None:
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(4, 4))
    optimizer = Optimizer(network, Optim(optimizer="adamw_8bit"))
    eight, plain, vectors = (rule.state for _, rule in optimizer.rules)
    assert (set(eight), set(plain), set(vectors)) == ({"0.weight"}, {"1.weight"}, {"0.bias", "1.bias"})
    assert network[0].weight.numel() == MIN_ELEMENTS
    size = sum(tensor.numel() * tensor.element_size() for tensor in eight["0.weight"].values())
    assert size == MIN_ELEMENTS * (2 + 8 / BLOCK) + 4


def test_a_weight_without_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(64, 64))
    rule = rule_for(weight)
    rule.step({}, 1e-2, None)
    assert bool((weight == 1).all())
    assert float(rule.state["one"]["step"]) == 0
