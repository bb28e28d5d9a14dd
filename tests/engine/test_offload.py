"""What waits elsewhere for the backward comes back as it was."""

from __future__ import annotations

import contextlib

import torch
from worlds import world

from bottega.batch import count_units
from bottega.engine.offload import HostCopy, Offload
from bottega.packing import pack


def test_gradients_are_the_same_to_the_bit() -> None:
    made = world("dpo", "{}", "llama")
    batch = made.complete(pack(made.examples), made.fit)

    def gradients(*, sent: bool) -> list[torch.Tensor]:
        made.model.zero_grad()
        scorer = made.scorer()
        with Offload(scorer, min_bytes=64) if sent else contextlib.nullcontext():
            scores = scorer(batch, made.objective.outputs)
        made.objective.loss(scores, batch).total(count_units([batch])).backward()
        return [weight.grad.clone() for weight in made.model.parameters() if weight.grad is not None]

    for one, other in zip(gradients(sent=True), gradients(sent=False), strict=True):
        assert torch.equal(one, other)


def test_weights_and_little_tensors_stay() -> None:
    layer = torch.nn.Linear(64, 64)
    hooks = Offload(layer, min_bytes=1024)
    assert isinstance(hooks._to_host(layer.weight.T), torch.Tensor)
    assert isinstance(hooks._to_host(torch.zeros(8)), torch.Tensor)
    large = torch.randn(64, 64)
    sent = hooks._to_host(large)
    assert isinstance(sent, HostCopy)
    large.zero_()
    assert hooks._to_device(sent).abs().sum() > 0, "it is a copy"
