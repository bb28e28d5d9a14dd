"""One forward of a network, recorded: what each layer got and made of every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bottega.explaining.anatomy import (
    Stack,
    find_attention,
    find_mlp,
    find_projections,
    find_router,
    find_stacks,
)

Floats = NDArray[np.float32]


@dataclass
class LayerTrace:
    """What a layer computed; None where it has no such part, or one that is not found.

    state      [t, H] the residual stream behind it
    attention  [heads, t, s] how much each position (t) takes from each (s)
    cross      [heads, t, s] the same, from the encoder
    attended   [t] norm of what attention adds to the residual stream, and `fed` of what the MLP adds
    query key value  [t, heads, d], before rotations
    router     [t, experts] the weight of each expert
    """

    state: Floats | None = None
    attention: Floats | None = None
    cross: Floats | None = None
    attended: Floats | None = None
    fed: Floats | None = None
    query: Floats | None = None
    key: Floats | None = None
    value: Floats | None = None
    router: Floats | None = None


@dataclass
class StackTrace:
    """What a stack computed: `embedded` [t, H] is what its first layer got."""

    name: str
    ids: Sequence[int]
    layers: list[LayerTrace]
    embedded: Floats | None = None


@dataclass
class Trace:
    """A forward, recorded.

    stacks  one, or encoder and decoder
    logits  [t, V] of the last stack; None for a model without a head over the vocabulary
    """

    stacks: list[StackTrace]
    logits: Floats | None


def record(network: Any, ids: Sequence[int], decoder_ids: Sequence[int] = ()) -> Trace:
    """Run a network on tokens, and record what its parts compute.

    ids          of the text; of an encoder–decoder, what its encoder reads
    decoder_ids  of an encoder–decoder: what its decoder has written so far, its start token first
    """
    stacks = find_stacks(network)
    # The attention that computes its weights: other ways to compute it never have them as a whole.
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")
    inputs = {"input_ids": torch.tensor([list(ids)], device=network.device)}
    if network.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([list(decoder_ids)], device=network.device)
    traces = [StackTrace(stack.name, [], [LayerTrace() for _ in stack.layers]) for stack in stacks]
    try:
        with torch.inference_mode(), ExitStack() as hooks:
            for stack, trace in zip(stacks, traces, strict=True):
                hooks.enter_context(_recording(stack, trace))
            outputs = network(**inputs, output_attentions=True, use_cache=False)
    finally:
        network.set_attn_implementation(before)
    for trace, name in zip(traces, _attention_fields(network), strict=True):
        trace.ids = list(decoder_ids if trace is not traces[0] else ids)
        _keep_attention(trace, getattr(outputs, name, None), "attention")
    if network.config.is_encoder_decoder:
        _keep_attention(traces[-1], outputs.cross_attentions, "cross")
    for trace in traces:
        _keep_what_is_added(trace)
    logits = getattr(outputs, "logits", None)
    return Trace(traces, None if logits is None else _array(logits[0]))


def _attention_fields(network: Any) -> tuple[str, ...]:
    return ("encoder_attentions", "decoder_attentions") if network.config.is_encoder_decoder else ("attentions",)


def _keep_attention(trace: StackTrace, weights: Sequence[Tensor | None] | None, name: str) -> None:
    # A model of which only some layers have attention returns it for those alone, in order.
    having = [layer for layer in trace.layers if layer.attended is not None]
    layers = trace.layers if weights is not None and len(weights) == len(trace.layers) else having
    for layer, weight in zip(layers, weights or (), strict=False):
        if weight is not None:
            setattr(layer, name, _array(weight[0]))


@contextmanager
def _recording(stack: Stack, trace: StackTrace) -> Iterator[None]:
    """Inside the block, what the layers of a stack compute is kept in its trace."""
    handles = [stack.layers[0].register_forward_pre_hook(partial(_keep_input, trace), with_kwargs=True)]
    for layer, kept in zip(stack.layers, trace.layers, strict=True):
        handles.append(layer.register_forward_hook(partial(_keep, kept, "state", _first)))
        parts = [(find_attention(layer), "attended", _first), (find_mlp(layer), "fed", _first)]
        parts += [(find_router(layer), "router", _weights)]
        parts += [(module, kind, _first) for kind, module in find_projections(layer).items()]
        for module, name, measure in parts:
            if module is not None:
                handles.append(module.register_forward_hook(partial(_keep, kept, name, measure)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(trace: StackTrace, module: nn.Module, positional: Any, named: Any) -> None:
    states = positional[0] if positional else named["hidden_states"]
    trace.embedded = _array(states[0])


def _keep(
    kept: LayerTrace, name: str, measure: Callable[[Any], Floats], module: nn.Module, inputs: Any, output: Any
) -> None:
    setattr(kept, name, measure(output))


def _first(output: Any) -> Floats:
    """[t, …] what a module returned for the only row."""
    tensor = output[0] if isinstance(output, tuple) else output
    return _array(tensor[0] if tensor.dim() > 2 else tensor)


def _keep_what_is_added(trace: StackTrace) -> None:
    """Keep norms of what attention and MLP add to the stream, where these two make up what a layer adds.

    In some families they do not: BERT normalizes the sum, Gemma 2 what is added, Granite scales it.
    """
    before = trace.embedded
    for layer in trace.layers:
        parts = [part for part in (layer.attended, layer.fed) if part is not None]
        whole = None if before is None or layer.state is None else layer.state - before
        shapes_fit = whole is not None and all(part.shape == whole.shape for part in parts)
        if not (shapes_fit and parts and whole is not None and np.allclose(sum(parts), whole, rtol=1e-2, atol=1e-3)):
            layer.attended = layer.fed = None
        before = layer.state
        for name in ("attended", "fed"):
            part = getattr(layer, name)
            setattr(layer, name, None if part is None else np.linalg.norm(part, axis=-1))


def _weights(output: Any) -> Floats:
    """[t, experts] probabilities, of what a router returned: its logits, first or last among other things."""
    tensors = output if isinstance(output, tuple) else (output,)
    scores = next(tensor for tensor in tensors if tensor.is_floating_point())
    scores = scores.reshape(-1, scores.shape[-1]).float()
    is_distribution = bool((scores >= 0).all()) and bool(torch.allclose(scores.sum(-1), torch.ones(()), atol=1e-3))
    return _array(scores if is_distribution else scores.softmax(-1))


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().float().cpu().numpy()
