"""One forward, recorded: the network is as it was before."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from bottega.explaining.trace import record
from making import sharpen, tiny_config


def test_nothing_of_a_recording_stays_behind() -> None:
    network = sharpen(transformers.AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.float32)).eval()
    before = network.config._attn_implementation
    with torch.inference_mode():
        plain = network(torch.tensor([[3, 4, 5]])).logits[0].numpy()
    trace = record(network, [3, 4, 5])
    assert network.config._attn_implementation == before
    # transformers puts hooks of its own on a network at the first call that asks for attention.
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()]
    record(network, [3, 4, 5])
    assert [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()] == hooks
    assert trace.logits is not None
    np.testing.assert_allclose(trace.logits, plain, atol=1e-5)
    (stack,) = trace.stacks
    assert stack.ids == [3, 4, 5]
    for layer in stack.layers:
        assert layer.attention is not None
        np.testing.assert_allclose(layer.attention.sum(-1), 1, atol=1e-5)
        assert layer.query is not None
        assert layer.attended is not None
        assert layer.attended.shape == (3,)


def test_what_the_parts_add_makes_up_the_stream() -> None:
    """The stream behind a layer is that before it, and what attention and MLP add."""
    network = sharpen(transformers.AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.float32)).eval()
    trace = record(network, [3, 4, 5])
    first = trace.stacks[0].layers[0]
    assert first.state is not None
    assert trace.stacks[0].embedded is not None
    added = np.linalg.norm(first.state - trace.stacks[0].embedded, axis=-1)
    assert first.attended is not None
    assert first.fed is not None
    assert (added <= first.attended + first.fed + 1e-4).all()
    assert (added >= np.abs(first.attended - first.fed) - 1e-4).all()
