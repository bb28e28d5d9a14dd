"""A transformers model as ONNX graphs, with a KV cache as explicit inputs and outputs.

Legend: B rows, T tokens, P tokens in the cache, L layers, S tokens that an encoder reads.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from bottega.errors import ModelError
from bottega.inference.runtimes.onnx import DECODER, ENCODER, MODEL, PAST, PRESENT

# Sizes of the inputs that a graph is traced with. All differ, and none is 1, so that no two are taken for the same.
ROWS, TOKENS, CACHED, SOURCE = 2, 4, 6, 5


class _Causal(nn.Module):
    """A decoder: (ids [B, T], mask [B, P + T], positions [B, T] or None, 2L past) → logits and 2L present."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None, past: list[Tensor]
    ) -> Any:
        from transformers import DynamicCache

        positions = {} if position_ids is None else {"position_ids": position_ids}
        cache = _filled(DynamicCache(), past)
        out = self.network(
            input_ids=input_ids, attention_mask=attention_mask, **positions, past_key_values=cache, use_cache=True
        )
        return out.logits, *_flat(out.past_key_values)


class _Decoder(nn.Module):
    """Of an encoder–decoder: (ids [B, T], encoder states [B, S, H], encoder mask [B, S], 2L past) → the same."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor, past: list[Tensor]
    ) -> Any:
        from transformers import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        # Keys and values of the encoder's states are computed at every step: it keeps the graph one.
        cache = EncoderDecoderCache(_filled(DynamicCache(), past), DynamicCache())
        out = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits, *_flat(out.past_key_values.self_attention_cache)


class _WithAdapters(nn.Module):
    """The same as another of these, with further inputs that replace weights of the network: those of an adapter."""

    def __init__(self, wrapper: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.wrapper, self.names = wrapper, [f"network.{name}" for name in names]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None,
        past: list[Tensor],
        adapter: list[Tensor],
    ) -> Any:
        weights = dict(zip(self.names, adapter, strict=True))
        inputs = (input_ids, attention_mask, position_ids, past)
        return torch.func.functional_call(self.wrapper, weights, inputs)


class _Whole(nn.Module):
    """What reads a text at once: (ids [B, T], mask [B, T]) → logits, or hidden states of a model without a head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        # A decoder with a classifier would return its cache too.
        without_cache = {"use_cache": False} if "use_cache" in _parameters(self.network) else {}
        out = self.network(input_ids=input_ids, attention_mask=attention_mask, **without_cache)
        return out.logits if "logits" in out else out.last_hidden_state


def _filled(cache: Any, past: Sequence[Tensor]) -> Any:
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _flat(cache: Any) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _parameters(network: Any) -> Mapping[str, Any]:
    return inspect.signature(network.forward).parameters


def write_graphs(network: Any, folder: Path, adapter: Sequence[str] = (), *, generates: bool) -> list[Path]:
    """Write a model in evaluation mode as ONNX files; their paths.

    adapter    names of weights of a decoder that become inputs
    generates  with a KV cache
    """
    with _quiet(), torch.no_grad():
        if network.config.is_encoder_decoder:
            return [_write_encoder(network, folder), _write_decoder(network, folder)]
        return [_write_causal(network, folder, adapter) if generates else _write_whole(network, folder / MODEL)]


def _write_whole(network: Any, path: Path) -> Path:
    ids = torch.ones(ROWS, TOKENS, dtype=torch.long)
    output = "logits" if "logits" in network(input_ids=ids) else "last_hidden_state"
    return _write(_Whole(network), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [], [output], path)


def _write_causal(network: Any, folder: Path, adapter: Sequence[str]) -> Path:
    ids = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask = torch.ones(ROWS, CACHED + TOKENS, dtype=torch.long)
    at = torch.arange(CACHED, CACHED + TOKENS).expand(ROWS, TOKENS).contiguous()
    positions = at if "position_ids" in _parameters(network) else None
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    cache = network(input_ids=ids, use_cache=True).past_key_values
    weights = {name: network.get_parameter(name).detach() for name in adapter}
    return _write_cached(_Causal(network), inputs, cache, folder / MODEL, weights)


def _write_encoder(network: Any, folder: Path) -> Path:
    return _write_whole(network.get_encoder(), folder / ENCODER)


def _write_decoder(network: Any, folder: Path) -> Path:
    ids = torch.ones(ROWS, TOKENS, dtype=torch.long)
    source = torch.ones(ROWS, SOURCE, dtype=torch.long)
    states = network.get_encoder()(input_ids=source).last_hidden_state
    inputs = {"input_ids": ids, "encoder_hidden_states": states, "encoder_attention_mask": source}
    cache = network(input_ids=source, decoder_input_ids=ids, use_cache=True).past_key_values.self_attention_cache
    return _write_cached(_Decoder(network), inputs, cache, folder / DECODER)


def _write_cached(
    wrapper: Any, inputs: dict[str, Tensor | None], cache: Any, path: Path, adapter: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a graph with a cache, whose shapes are those of `cache`."""
    from transformers.cache_utils import DynamicLayer

    if not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        what = "it keeps a state of another kind than keys and values between tokens"
        raise ModelError(what, where=f"the {wrapper.network.config.model_type} model", fix="export it as merged")
    past = [tensor.new_zeros(ROWS, tensor.shape[1], CACHED, tensor.shape[3]) for tensor in _flat(cache)]
    names = [f"{layer}.{part}" for layer in range(len(past) // 2) for part in ("key", "value")]
    outputs = ["logits", *(PRESENT + name for name in names)]
    wrapper = _WithAdapters(wrapper, list(adapter)) if adapter else wrapper
    return _write(wrapper, inputs, past, outputs, path, [PAST + name for name in names], adapter or {})


def _write(
    wrapper: Any,
    inputs: dict[str, Tensor | None],
    past: list[Tensor],
    outputs: list[str],
    path: Path,
    past_names: Sequence[str] = (),
    adapter: Mapping[str, Tensor] = MappingProxyType({}),
) -> Path:
    auto = torch.export.Dim.AUTO
    dynamic: list[Any] = [None if each is None else {0: auto, 1: auto} for each in inputs.values()]
    arguments: list[Any] = list(inputs.values())
    if past:
        arguments.append(past)
        dynamic.append([{0: auto, 2: auto} for _ in past])
    if adapter:
        arguments.append(list(adapter.values()))
        dynamic.append([None for _ in adapter])
    torch.onnx.export(
        wrapper,
        tuple(arguments),
        str(path),
        dynamo=True,
        dynamic_shapes=tuple(dynamic),
        input_names=[*(name for name, each in inputs.items() if each is not None), *past_names, *adapter],
        output_names=outputs,
        external_data=True,
        verbose=False,
    )
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which tells of every step."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
