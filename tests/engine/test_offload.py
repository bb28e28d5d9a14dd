"""Offloaded activations come back unchanged."""

from __future__ import annotations

import contextlib

import torch
from worlds import world

from bottega.batch import count_units
from bottega.engine.offload import HostCopy, Offload
from bottega.packing import pack


def test_gradients_are_bitwise_equal_with_and_without_offload() -> None:
    case = world("dpo", "{}", "llama")
    batch = case.complete(pack(case.examples), case.fit)

    def gradients(*, offload: bool) -> list[torch.Tensor]:
        case.model.zero_grad()
        scorer = case.scorer()
        with Offload(scorer, min_bytes=64) if offload else contextlib.nullcontext():
            scores = scorer(batch, case.objective.outputs)
        case.objective.loss(scores, batch).total(count_units([batch])).backward()
        return [weight.grad.clone() for weight in case.model.parameters() if weight.grad is not None]

    for offloaded, kept in zip(gradients(offload=True), gradients(offload=False), strict=True):
        assert torch.equal(offloaded, kept)


def test_weights_and_small_tensors_are_not_offloaded() -> None:
    layer = torch.nn.Linear(64, 64)
    hooks = Offload(layer, min_bytes=1024)
    assert isinstance(hooks._to_host(layer.weight.T), torch.Tensor)
    assert isinstance(hooks._to_host(torch.zeros(8)), torch.Tensor)
    large = torch.randn(64, 64)
    sent = hooks._to_host(large)
    assert isinstance(sent, HostCopy)
    large.zero_()
    assert hooks._to_device(sent).abs().sum() > 0, "it is a copy"
