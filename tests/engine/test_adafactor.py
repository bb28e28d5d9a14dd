"""Adafactor: the updates of transformers', for matrices, stacks of them and vectors; nearly no state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor as Reference

from bottega.engine.adafactor import Adafactor
from bottega.engine.master_weights import make_master_weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(12, 8), (3, 5, 7), (9,)])
def test_its_updates_are_those_of_transformers(shape: tuple[int, ...], decay: float) -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    rule = Adafactor([make_master_weight("one", ours)], decay)
    settings = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    reference = Reference([theirs], lr=1e-2, weight_decay=decay, **settings)
    for number in range(6):
        # Some are far larger than those before, so that the update is cut.
        theirs.grad = torch.randn(shape) * (30 if number == 4 else 1)
        rule.step({"one": 4 * theirs.grad}, 1e-2, torch.tensor(4.0))
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_its_state_is_rows_and_columns() -> None:
    weights = [
        make_master_weight(name, nn.Parameter(torch.zeros(shape))) for name, shape in (("a", (50, 40)), ("b", 7))
    ]
    rule = Adafactor(weights, 0.0)
    assert {key: tuple(value.shape) for key, value in rule.state["a"].items()} == {
        "step": (),
        "row": (50,),
        "column": (40,),
    }
    assert tuple(rule.state["b"]["exp_avg_sq"].shape) == (7,)


def test_half_precision_weights_move_by_their_masters() -> None:
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.float16))
    rule = Adafactor([make_master_weight("one", weight)], 0.0)
    for _ in range(20):
        rule.step({"one": torch.ones(4, 4, dtype=torch.float16)}, 1e-4, None)
    moved = float(weight.detach()[0, 0])
    assert moved == pytest.approx(1 - 20e-4, abs=1e-3)
    assert moved != 1


def test_a_weight_without_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    Adafactor([make_master_weight("one", weight)], 0.5).step({}, 1e-2, None)
    assert bool((weight == 1).all())
