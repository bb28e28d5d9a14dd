"""Where nothing can be recorded, every call computes."""

from __future__ import annotations

import torch
from torch import nn

from bottega.inference.cuda_graph import UNABLE, Recorded


def test_on_a_cpu_every_call_computes() -> None:
    value = torch.zeros(2)
    step = Recorded(lambda: value + 1, nn.Linear(2, 2), device=torch.device("cpu"))
    assert not step.able
    for number in range(3):
        value.fill_(number)
        assert step("the same shapes").tolist() == [number + 1.0, number + 1.0]
    assert step.played == 0


def test_a_model_that_could_not_be_recorded_is_not_tried_again() -> None:
    model, calls = nn.Linear(2, 2), []

    def run() -> torch.Tensor:
        calls.append(1)
        return torch.zeros(1)

    step = Recorded(run, model, device=torch.device("cpu"))
    step.able = True  # as on an accelerator
    UNABLE.add(model)
    step("shapes")
    step("shapes")
    assert (len(calls), step.played) == (2, 0)
    del model, step
    assert not UNABLE, "a model that is gone is forgotten"
