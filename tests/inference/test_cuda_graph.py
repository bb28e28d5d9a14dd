"""Without CUDA, and for a model that cannot be captured, every step is a plain call."""

from __future__ import annotations

import torch
from torch import nn

from bottega.inference.cuda_graph import NOT_CAPTURABLE, CapturedStep


def test_on_a_cpu_every_call_computes() -> None:
    value = torch.zeros(2)
    step = CapturedStep(lambda: value + 1, nn.Linear(2, 2), device=torch.device("cpu"))
    assert not step.enabled
    for number in range(3):
        value.fill_(number)
        assert step("the same shapes").tolist() == [number + 1.0, number + 1.0]
    assert step.replays == 0


def test_a_model_that_could_not_be_captured_is_not_tried_again() -> None:
    model, calls = nn.Linear(2, 2), []

    def run() -> torch.Tensor:
        calls.append(1)
        return torch.zeros(1)

    step = CapturedStep(run, model, device=torch.device("cpu"))
    step.enabled = True  # as on an accelerator
    NOT_CAPTURABLE.add(model)
    step("shapes")
    step("shapes")
    assert (len(calls), step.replays) == (2, 0)
    del model, step
    assert not NOT_CAPTURABLE, "a model that is gone is forgotten"
