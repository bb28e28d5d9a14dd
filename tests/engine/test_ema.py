"""The moving average of the weights: its values, its place in the model, and that it resumes."""

from __future__ import annotations

import pytest
import torch
from networks import model, step
from torch import nn

from bottega.engine.ema import WeightAverage
from bottega.engine.master_weights import make_master_weight
from bottega.engine.optimizer import Optimizer
from bottega.recipe.schema import Optim


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


def average_of(decay: float) -> tuple[nn.Parameter, WeightAverage]:
    parameter = nn.Parameter(torch.zeros(1))
    return parameter, WeightAverage([make_master_weight("weight", parameter)], decay)


def test_the_first_updates_count_for_more() -> None:
    """With d = (1 + t) / (10 + t) until that reaches the decay."""
    parameter, average = average_of(0.9)
    wanted = 0.0
    for update in range(1, 101):
        parameter.data.fill_(float(update))
        average.update()
        decay = min(0.9, (1 + update) / (10 + update))
        wanted = decay * wanted + (1 - decay) * update
    assert float(average.state["weight"]["average"]) == pytest.approx(wanted, rel=1e-6)
    assert int(average.state["weight"]["updates"]) == 100


def test_the_weights_come_back_after_an_error() -> None:
    parameter, average = average_of(0.5)
    parameter.data.fill_(4.0)
    with average.applied():
        assert parameter.item() == 0.0
    assert parameter.item() == 4.0
    with pytest.raises(RuntimeError, match="stopped"), average.applied():
        raise RuntimeError("stopped")
    assert parameter.item() == 4.0


def test_small_changes_add_up_in_half_precision() -> None:
    parameter = nn.Parameter(torch.ones(1).bfloat16())
    average = WeightAverage([make_master_weight("weight", parameter)], 0.999)
    before = average.state["weight"]["average"].clone()
    master = average.weights[0].read()
    master.fill_(1.0078125)  # the next bfloat16
    average.weights[0].write(master)
    average.update()
    assert average.state["weight"]["average"].dtype == torch.float32
    assert 0 < float(average.state["weight"]["average"] - before) < 0.0078125
