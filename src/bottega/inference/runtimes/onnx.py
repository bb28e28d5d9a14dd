"""ONNX Runtime: graphs with the names of inputs and outputs that optimum gives them, and a KV cache of our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bottega.batch import Ints
from bottega.inference.runtimes import Floats, Runtime
from bottega.objectives import HeadKind

# Of an encoder–decoder the encoder and the decoder are graphs of their own.
MODEL, ENCODER, DECODER = "model.onnx", "encoder_model.onnx", "decoder_model.onnx"

# In the folder of an adapter.
ADAPTER = "adapter.onnx_adapter"

PAST, PRESENT = "past_key_values.", "present."


class OnnxRuntime(Runtime):
    """A folder with `model.onnx`, or with an encoder and a decoder."""

    title: ClassVar[str] = "ONNX Runtime"
    package: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "onnx"

    def __init__(self, folder: Path, head: HeadKind) -> None:
        super().__init__(folder, head)
        self.encoder = _session(folder / ENCODER) if (folder / ENCODER).exists() else None
        self.decoder = _session(folder / (MODEL if self.encoder is None else DECODER))
        self.inputs = {each.name: each for each in self.decoder.get_inputs()}
        self.outputs = [each.name for each in self.decoder.get_outputs()]
        self.adapters = dict[Path, Any]()
        # Of a call; None without an adapter.
        self.options: Any = None

    def use_adapter(self, folder: Path | None) -> None:
        import onnxruntime

        self.options = None
        if folder is None:
            return
        if folder not in self.adapters:
            self.adapters[folder] = onnxruntime.LoraAdapter()
            self.adapters[folder].Load(str(folder / ADAPTER))
        self.options = onnxruntime.RunOptions()
        self.options.add_active_adapter(self.adapters[folder])

    def begin(self, source: Ints | None = None) -> None:
        # A cache without tokens, and the states of what the encoder reads.
        self.length = 0
        self.cache = {
            name: np.zeros([1, each.shape[1], 0, each.shape[3]], np.float32)
            for name, each in self.inputs.items()
            if name.startswith(PAST)
        }
        self.encoded: dict[str, Any] = {}
        if self.encoder is not None and source is not None:
            ids = source[None].astype(np.int64)
            (states,) = self.encoder.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
            self.encoded = {"encoder_hidden_states": states, "encoder_attention_mask": np.ones_like(ids)}

    def append(self, tokens: Sequence[int]) -> Floats:
        at = np.arange(self.length, self.length + len(tokens), dtype=np.int64)
        feed = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, self.length + len(tokens)), np.int64),
            "position_ids": at[None],
            **self.encoded,
            **self.cache,
        }
        values, *present = self.decoder.run(None, {name: feed[name] for name in self.inputs}, self.options)
        self.cache = {name.replace(PRESENT, PAST): kept for name, kept in zip(self.outputs[1:], present, strict=True)}
        self.length += len(tokens)
        return np.asarray(values[0] if values.ndim == 3 else values)


def _session(path: Path) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As many as a run uses, which bottega leaves to torch.
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
